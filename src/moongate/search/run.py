"""One answer that may search, under way: what is asked next, and what is left of its limits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from moongate.core.errors import UpstreamTooLong
from moongate.core.events import Event, Finished, Round, ToolArgs, ToolCall
from moongate.core.ports import Ask, Upstream, WebSearch
from moongate.core.request import Call, Message, Request, ToolChoice
from moongate.meter import tokens
from moongate.meter.tokens import Count
from moongate.search import quoting
from moongate.search.citing import Citing
from moongate.search.finding import Finding
from moongate.search.results import ERRORS, SearchFailed
from moongate.search.sealing import Carried, Seal
from moongate.search.tool import BUILTIN, query_of
from moongate.search.turn import Turn

ROUNDS_MAX: Final = 3
CALLS_MAX: Final = 3
SEARCH_S: Final = 45.0
"""What the searches take together; the model's own time is not counted."""
ROUND_BYTES: Final = 24_000
"""UTF-8 bytes of the results of one round, at most; its searches have equal shares."""
_BYTES_PER_TOKEN: Final = 4


class Ran(NamedTuple):
    """One call, carried out or not: what it asked for, what the model reads, whether it counts."""

    query: str
    message: str
    searched: bool
    error: str = ""

    @classmethod
    def nothing(cls, query: str, kind: str) -> "Ran":
        """A call that brought nothing, for the reason ``kind``."""
        return cls(query, quoting.trouble(kind), searched=False, error=ERRORS.get(kind, kind))


class Run:
    """One answer under way: what is asked next, what is left of its limits, what it was given."""

    def __init__(self, ask: Ask, search: WebSearch, finding: Finding | None, seal: Seal) -> None:
        self.ask, self._search, self._finding, self._seal = ask, search, finding, seal
        request = ask.request
        self._prose = request.format is None or request.format.kind == "text"
        self.citing = Citing(anywhere=self._prose)
        self.citing.add(search.sources)
        self._rounds, self._room, self._shown = 0, search.room, False
        self._round_room, self._left_s = ROUND_BYTES, SEARCH_S
        self._round: Round | None = None
        self._over = False

    def over(self) -> bool:
        """Whether no other round has room."""
        return self._over

    @property
    def _last(self) -> bool:
        return self._rounds >= ROUNDS_MAX

    def turn(self) -> Turn:
        """The reader of the next round."""
        return Turn(
            self._search, self.citing, apart=self._shown and self._prose,
            holds=not self._prose and not self._last, last=self._last,
        )  # fmt: skip

    def forbids(self, call: Call, at: int) -> str | None:
        """Why the call, number ``at`` of its round, is not carried out; ``None``: it is."""
        if at >= CALLS_MAX:
            return "too_many"
        if not query_of(call.arguments):
            return "no_query"
        if self._room < quoting.ROOM_MIN:
            return "no_room"
        return None if self._left_s > 0 else "limit"

    async def search(self, query: str, turn: Turn, at: int) -> Ran:
        """Carry a search out, call ``at`` of its round; one that fails counts nothing."""
        assert self._finding is not None
        clock = asyncio.get_running_loop().time
        began_s = clock()
        try:
            found = await self._finding.find(
                query, self._search.results_max, pages=self._search.pages, within_s=self._left_s
            )
        except SearchFailed as error:
            return Ran.nothing(query, error.kind)
        finally:
            self._left_s -= clock() - began_s
        to_come = min(len(turn.calls), CALLS_MAX) - at
        room = min(self._room, self._round_room // to_come)
        message, sources = quoting.quote(found, self.citing.next_id, room)
        self._room -= len(message.encode())
        self._round_room -= len(message.encode())
        self.citing.add(sources)
        return Ran(query, message, searched=True)

    def carried(self, turn: Turn, answers: list[tuple[Call, Ran]]) -> list[Event]:
        """What a client that runs the loop gets: a receipt in each call."""
        receipts = [
            self._seal.receipt(
                self.ask.tenant, Carried(ran.query, ran.message),
                len(ran.message.encode()) // _BYTES_PER_TOKEN,
            )
            for _, ran in answers
        ]  # fmt: skip
        return self.as_called(turn, receipts)

    def as_called(self, turn: Turn, arguments: list[str]) -> list[Event]:
        """The calls of the built-in, for the client to answer, and the finish."""
        out: list[Event] = []
        for at, (call, text) in enumerate(zip(turn.calls, arguments, strict=True), turn.theirs):
            id = call.id.replace(self._search.tool, BUILTIN)
            out += [
                ToolCall(at, id, BUILTIN, "builtin_function", ours=True),
                ToolArgs(at, text, ours=True),
            ]
        return [*out, Finished("tool_calls")]

    def cut(self) -> list[Event]:
        """The end of an answer that may not go on."""
        return [*self.citing.rest(), Finished("length")]

    async def stream(self, inner: Upstream) -> AsyncGenerator[list[Event], None]:
        """Ask for the round, and yield its events.

        A further one that is too long there is asked for once more, with a lower cap; after that
        the answer is over, and what came before stands.
        """
        accepted = False
        for again in (False, True):
            try:
                async with aclosing(inner.stream(self.ask)) as batches:
                    async for events in batches:
                        accepted = True
                        yield events
            except UpstreamTooLong as error:
                if accepted or self._round is None:
                    raise
                self._over = again or not self._lower(error)
                if self._over:
                    return
            else:
                return

    def _lower(self, error: UpstreamTooLong) -> bool:
        """Lower a further round's cap to the room that the upstream told of."""
        assert self._round is not None
        prompt = Count(self._round.least, self._round.least, self._round.bound)
        cap = tokens.lowered(self.ask.output_tokens_max, prompt, error)
        if cap is not None:
            self.ask = msgspec.structs.replace(self.ask, output_tokens_max=cap)
        return cap is not None

    def begin(self, more: Round) -> None:
        """Take up the round ``more``, for which there is money; without room the answer is over."""
        self._round, self._round_room = more, ROUND_BYTES
        self.ask = msgspec.structs.replace(
            self.ask, request=more.request, output_tokens_max=more.output_tokens_max
        )
        self._over = more.output_tokens_max < 1

    def go_on(self, turn: Turn, answers: list[tuple[Call, Ran]], *, thinks: bool) -> Round:
        """The round with the results; its cap is what the answer's leaves, which may be nothing."""
        left = max(0, self.ask.output_tokens_max - turn.output)
        self._rounds += 1
        self._shown = self._shown or turn.shown
        request = self.ask.request
        said = "".join(turn.said)
        before, begun = request.messages, request.messages[:0]
        if before[-1].partial:
            if not self._prose:  # nothing of it was shown: the next round begins so as well
                begun = before[-1:]
            said, before = before[-1].text() + said, before[:-1]
        thought = "".join(turn.thought) if turn.thinks else None
        if thought is None and thinks and request.thinking is not False:
            thought = ""
        asked = Message("assistant", said or None, thinking=thought, tool_calls=tuple(turn.calls))
        told = [self._told(call, ran) for call, ran in answers]
        messages = (*before, asked, *told, *begun)
        choice = self._choice(request)
        return Round(msgspec.structs.replace(request, messages=messages, tool_choice=choice), left)

    def _told(self, call: Call, ran: Ran) -> Message:
        text = ran.message
        if self._last and self._finding is not None:
            text = quoting.with_limit(text)
        name = BUILTIN if self._finding is None else None
        return Message("tool", text, name=name, tool_call_id=call.id)

    def _choice(self, request: Request) -> ToolChoice | None:
        """A tool that had to be called was; when no search is left, words have to do."""
        only_ours = all(tool.name == self._search.tool for tool in request.tools)
        if self._last and only_ours:
            return ToolChoice("none")
        choice = request.tool_choice
        forced = choice is not None and choice.mode in ("required", "named")
        return None if forced else choice
