"""The tool loop, seen as an upstream that wraps another: the model calls, we search, it goes on.

The model is offered a plain function; its calls are carried out here and never shown, their
results go back as tool messages, until it answers. Before each search and each further round the
loop yields :class:`Due`: whoever reads on has set the money aside. An answer has at most
:data:`ROUNDS_MAX` rounds of searches, :data:`CALLS_MAX` in each, and :data:`SEARCH_S` seconds for
all of them. Tokens of all rounds are used by one answer; a search that failed is told to the model
and counts nothing.

With :attr:`WebSearch.by_client` the client runs the loop: a search is carried out too, and its
results go to the client as a sealed receipt, in the arguments of the built-in call. Where the
upstream's own maker searches, the call is answered with its arguments, as the maker wants it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from moongate.core.cards import Facts
from moongate.core.events import Due, Event, Finished, Searched, ToolArgs, ToolCall
from moongate.core.ports import Ask, Probe, Upstream, WebSearch
from moongate.core.request import Call, Message, Request, ToolChoice
from moongate.search import quoting
from moongate.search.citing import Citing
from moongate.search.finding import Finding
from moongate.search.results import SearchFailed
from moongate.search.sealing import Carried, Seal
from moongate.search.tool import BUILTIN, query_of
from moongate.search.turn import Turn

ROUNDS_MAX: Final = 3
CALLS_MAX: Final = 3
SEARCH_S: Final = 45.0
_ROUND_BYTES: Final = 24_000
"""UTF-8 bytes of the results of one round, at most."""
_BYTES_PER_TOKEN: Final = 4


class _Ran(NamedTuple):
    """One call, carried out or not: what it asked for, what the model reads, whether it counts."""

    query: str
    message: str
    searched: bool


class Searching:
    """``inner`` with a loop around it. ``finding`` is ``None`` where its own maker searches."""

    def __init__(self, inner: Upstream, finding: Finding | None, seal: Seal) -> None:
        self.inner, self._finding, self._seal = inner, finding, seal
        self.name, self.kind = inner.name, inner.kind

    def __repr__(self) -> str:
        return f"Searching({self.inner!r})"

    def facts(self) -> Facts:
        """Those of the wrapped one; whatever calls tools can search with ours."""
        facts = self.inner.facts()
        if self._finding is None:
            return facts if self.kind == "moonshot" else _without(facts)
        if facts.abilities is None or "tools" not in facts.abilities:
            return facts
        return msgspec.structs.replace(facts, abilities=facts.abilities | {"search"})

    def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        """The events of one answer, however many rounds it takes. Raises an UpstreamError."""
        if ask.search is None:
            return self.inner.stream(ask)
        if self._finding is None:
            return self._maker(ask, ask.search)
        return self._loop(ask, ask.search, self._finding)

    async def count(self, request: Request) -> int | None:
        return await self.inner.count(request)

    async def probe(self) -> Probe:
        return await self.inner.probe()

    def dropped(self, request: Request) -> tuple[str, ...]:
        return self.inner.dropped(request)

    async def start(self) -> None:
        await self.inner.start()

    async def close(self) -> None:
        await self.inner.close()

    async def _loop(
        self, ask: Ask, search: WebSearch, finding: Finding
    ) -> AsyncGenerator[list[Event], None]:
        run = _Run(ask, search, finding, self._seal)
        while True:
            turn = run.turn()
            async with aclosing(self.inner.stream(run.ask)) as batches:
                async for events in batches:
                    if out := turn.take(events):
                        yield out
            if turn.reason is None:
                return
            answers: list[tuple[Call, _Ran]] = []
            for at, call in enumerate(turn.calls):
                if (why := run.forbids(call, at)) is not None:
                    answers.append((call, _Ran("", quoting.trouble(why), searched=False)))
                    continue
                yield [Due(searches=1)]
                ran = await run.search(query_of(call.arguments))
                answers.append((call, ran))
                if ran.searched:
                    yield [Searched()]
            if search.by_client:
                yield run.carried(turn, answers)
                return
            if not run.go_on(turn, answers, thinks=ask.family == "kimi"):
                yield [*run.citing.rest(), Finished("length")]
                return
            yield [Due(request=run.ask.request)]

    async def _maker(self, ask: Ask, search: WebSearch) -> AsyncGenerator[list[Event], None]:
        """The loop around a model whose maker searches: an answer to its call is its arguments."""
        run = _Run(ask, search, None, self._seal)
        while True:
            turn = run.turn()
            yield [Due(searches=1)]  # it searches within the round
            async with aclosing(self.inner.stream(run.ask)) as batches:
                async for events in batches:
                    out = turn.take(events)
                    if turn.calls and any(type(event) is Finished for event in out):
                        yield [Searched()]
                    if out:
                        yield out
            if turn.reason is None:
                return
            yield [Searched()]
            if search.by_client:
                yield run.as_called(turn, [call.arguments for call in turn.calls])
                return
            answers = [(call, _Ran("", call.arguments, searched=True)) for call in turn.calls]
            if not run.go_on(turn, answers, thinks=False):
                yield [Finished("length")]
                return
            yield [Due(request=run.ask.request)]


class _Run:
    """One answer under way: what is asked next, what is left of its limits, what it was given."""

    def __init__(self, ask: Ask, search: WebSearch, finding: Finding | None, seal: Seal) -> None:
        self.ask, self._search, self._finding, self._seal = ask, search, finding, seal
        request = ask.request
        self._prose = request.format is None or request.format.kind == "text"
        self.citing = Citing(anywhere=self._prose)
        for message in request.messages:
            if message.role == "tool" and message.text().startswith('{"notice":'):
                self.citing.add(quoting.sources_in(message.text()))
        self._rounds, self._room, self._shown = 0, search.room, False
        self._deadline_s = asyncio.get_running_loop().time() + SEARCH_S

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
        return "limit" if asyncio.get_running_loop().time() > self._deadline_s else None

    async def search(self, query: str) -> _Ran:
        """Carry a search out; one that fails has no results and counts nothing."""
        assert self._finding is not None
        try:
            found = await self._finding.find(
                query, self._search.results_max, pages=self._search.pages
            )
        except SearchFailed as error:
            return _Ran(query, quoting.trouble(error.kind), searched=False)
        room = min(self._room, _ROUND_BYTES)
        message, sources = quoting.quote(found, self.citing.next_id, room)
        self._room -= len(message.encode())
        self.citing.add(sources)
        return _Ran(query, message, searched=True)

    def carried(self, turn: Turn, answers: list[tuple[Call, _Ran]]) -> list[Event]:
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
            out += [ToolCall(at, id, BUILTIN, "builtin_function"), ToolArgs(at, text)]
        return [*out, Finished("tool_calls")]

    def go_on(self, turn: Turn, answers: list[tuple[Call, _Ran]], *, thinks: bool) -> bool:
        """Ask with the results; False when the answer's cap leaves nothing to say."""
        left = self.ask.output_tokens_max - turn.output
        if left < 1:
            return False
        self._rounds += 1
        self._shown = self._shown or turn.shown
        request = self.ask.request
        said = "".join(turn.said)
        before = request.messages
        if before[-1].partial:
            said, before = before[-1].text() + said, before[:-1]
        thought = "".join(turn.thought) if turn.thinks else None
        if thought is None and thinks and request.thinking is not False:
            thought = ""
        asked = Message("assistant", said or None, thinking=thought, tool_calls=tuple(turn.calls))
        told = [self._told(call, ran) for call, ran in answers]
        request = msgspec.structs.replace(
            request, messages=(*before, asked, *told), tool_choice=self._choice(request)
        )
        self.ask = msgspec.structs.replace(self.ask, request=request, output_tokens_max=left)
        return True

    def _told(self, call: Call, ran: _Ran) -> Message:
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


def _without(facts: Facts) -> Facts:
    return msgspec.structs.replace(facts, lacks=facts.lacks | {"search"})
