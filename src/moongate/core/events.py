"""The event alphabet of an answer, its legal order as a table, and the fold into one answer.

An answer is a stream of events; the unstreamed answer is a fold over it, so the two can
never be priced or told differently. Content events name their choice, tool events their
call index: nothing is attached by being next to something.
"""

from typing import Final, Literal

import msgspec

from moongate.core.money import Counts
from moongate.core.request import Call, CallType, Request
from moongate.core.sealed import Sealed

Reason = Literal["stop", "length", "tool_calls", "content_filter"]


class Started(Sealed, frozen=True, gc=False):
    """The upstream accepted the request (a 2xx head); no token yet.

    It comes again where a further round, which was :class:`Due`, was accepted.
    """


class Thinking(Sealed, frozen=True, gc=False):
    """A piece of reasoning."""

    text: str
    choice: int = 0


class Text(Sealed, frozen=True, gc=False):
    """A piece of the answer's content."""

    text: str
    choice: int = 0


class ToolCall(Sealed, frozen=True, gc=False):
    """A tool call begins: its index, id and name, once.

    ``ours``: we wrote it in place of what the model wrote, which came as :class:`Aside`.
    """

    index: int
    id: str
    name: str
    type: CallType = "function"
    choice: int = 0
    ours: bool = False


class ToolArgs(Sealed, frozen=True, gc=False):
    """A piece of the arguments of the call at ``index``. ``ours`` as in :class:`ToolCall`."""

    index: int
    text: str
    choice: int = 0
    ours: bool = False


class Aside(Sealed, frozen=True, gc=False):
    """A piece that the model wrote for us alone, a call of our own tool: output, and not shown."""

    text: str
    choice: int = 0


class Round(msgspec.Struct):
    """A further round of one answer, with the prompt of ``request``.

    Its cap (tokens) is what is left of the answer's. Who sets the money aside lowers it to the room
    beside the prompt, to 0 where there is none, and fills in the ``least`` and the most (``bound``)
    tokens that the prompt can have.
    """

    request: Request
    output_tokens_max: int
    least: int = 1
    bound: int = 1


class Due(Sealed, frozen=True):
    """What comes next costs more than was asked for at first: reading on means that it is held.

    So many ``searches``, or another ``round``.
    """

    searches: int = 0
    round: Round | None = None


class Searched(msgspec.Struct, frozen=True, gc=False):
    """So many searches of the web were carried out; or none, and ``failed`` is a word for why."""

    count: int = 1
    failed: str = ""


class Citation(Sealed, frozen=True):
    """A source for content characters ``start`` to ``end``."""

    url: str
    title: str
    start: int
    end: int
    choice: int = 0


class Finished(Sealed, frozen=True, gc=False):
    """The choice is complete, and why. ``unpaid``: we ended it, for want of credit."""

    reason: Reason
    choice: int = 0
    unpaid: bool = False


class Used(Sealed, frozen=True):
    """Counts so far (``final`` false) or for the whole answer, in the upstream's own words."""

    counts: Counts
    final: bool = True


class Failed(Sealed, frozen=True):
    """The upstream broke off inside its stream, saying ``kind`` (a code of ours, no text)."""

    kind: str


Event = (
    Started
    | Thinking
    | Text
    | ToolCall
    | ToolArgs
    | Aside
    | Citation
    | Due
    | Searched
    | Finished
    | Used
    | Failed
)

State = Literal["idle", "open", "content", "finished", "failed"]

ORDER: Final[dict[State, dict[type, State]]] = {
    # One row a state: which events may come, and what follows. Finishing is per choice;
    # the readers track choices and come to "finished" when a choice has its reason. What no
    # reader makes (Aside, Due, Searched, Started again) is not here: it comes between rounds.
    "idle": {Started: "open", Failed: "failed"},
    "open": {
        Thinking: "content",
        Text: "content",
        ToolCall: "content",
        Used: "open",
        Finished: "finished",
        Failed: "failed",
    },
    "content": {
        Thinking: "content",
        Text: "content",
        ToolCall: "content",
        ToolArgs: "content",
        Citation: "content",
        Used: "content",
        Finished: "finished",
        Failed: "failed",
    },
    "finished": {Used: "finished", Finished: "finished", Failed: "failed"},
    "failed": {},
}


class Sequence:
    """Walks :data:`ORDER` and the tool-call grammar; raises ValueError on an illegal event.

    Several choices may interleave, so "finished" is kept per choice: content for a choice
    that has finished is illegal, content for another is not. A tool call's index opens once,
    and arguments need an open index.
    """

    def __init__(self) -> None:
        self.state: State = "idle"
        self._done: set[int] = set()
        self._calls: set[tuple[int, int]] = set()

    def step(self, event: Event) -> None:
        """Admit ``event``, or raise ValueError naming the state and the event's type."""
        kind = type(event)
        if self.state == "content" and not self._done and (kind is Text or kind is Thinking):
            return  # what nearly every event is
        choice = getattr(event, "choice", None)
        state: State = self.state
        if choice is not None and state == "finished" and choice not in self._done:
            state = "content"
        after = ORDER[state].get(kind)
        if after is None or (choice is not None and choice in self._done):
            raise ValueError(f"{kind.__name__} is not legal in state {self.state}")
        if isinstance(event, ToolCall):
            if (event.choice, event.index) in self._calls:
                raise ValueError("a tool call's index opens twice")
            self._calls.add((event.choice, event.index))
        elif isinstance(event, ToolArgs):
            if (event.choice, event.index) not in self._calls:
                raise ValueError("tool arguments before their call")
        elif isinstance(event, Finished):
            self._done.add(event.choice)
        self.state = after


class Choice(Sealed, frozen=True):
    """One complete answer. ``thinking`` is ``None`` when the model sent no reasoning at all.

    ``unpaid`` as in :class:`Finished`.
    """

    index: int
    text: str
    thinking: str | None
    calls: tuple[Call, ...]
    reason: Reason
    citations: tuple[Citation, ...] = ()
    unpaid: bool = False


class Answer(Sealed, frozen=True):
    """The fold of a whole stream: the choices in order of their index."""

    choices: tuple[Choice, ...]


class Fold:
    """Gathers events into an :class:`Answer`; the only way to an unstreamed answer."""

    def __init__(self) -> None:
        self._text: dict[int, list[str]] = {}
        self._thinking: dict[int, list[str]] = {}
        self._calls: dict[tuple[int, int], ToolCall] = {}
        self._args: dict[tuple[int, int], list[str]] = {}
        self._citations: dict[int, list[Citation]] = {}
        self._finishes: dict[int, Finished] = {}

    def add(self, event: Event) -> None:
        """Take one event; what is no content leaves no trace in the answer."""
        match event:
            case Text():
                self._text.setdefault(event.choice, []).append(event.text)
            case Thinking():
                self._thinking.setdefault(event.choice, []).append(event.text)
            case ToolCall():
                self._calls[event.choice, event.index] = event
                self._args[event.choice, event.index] = []
            case ToolArgs():
                self._args[event.choice, event.index].append(event.text)
            case Citation():
                self._citations.setdefault(event.choice, []).append(event)
            case Finished():
                self._finishes[event.choice] = event
            case _:
                pass

    def answer(self) -> Answer:
        """The choices gathered so far; a choice without a reason is left out."""
        return Answer(tuple(self._choice(index) for index in sorted(self._finishes)))

    def _choice(self, index: int) -> Choice:
        thinking = self._thinking.get(index)
        calls = tuple(
            Call(call.id, call.name, "".join(self._args[key]), call.type)
            for key, call in sorted(self._calls.items())
            if key[0] == index
        )
        return Choice(
            index=index,
            text="".join(self._text.get(index, ())),
            thinking=None if thinking is None else "".join(thinking),
            calls=calls,
            reason=self._finishes[index].reason,
            citations=tuple(self._citations.get(index, ())),
            unpaid=self._finishes[index].unpaid,
        )
