"""The tool loop, seen as an upstream that wraps another: the model calls, we search, it goes on.

The model is offered a plain function; its calls are carried out here and never shown, their
results go back as tool messages, until it answers. Before each search and each further round the
loop yields :class:`Due`: whoever reads on has set the money aside. An answer has at most
``ROUNDS_MAX`` rounds of searches, ``CALLS_MAX`` in each, and ``SEARCH_S`` seconds for all of them
(see ``run``). Tokens of all rounds are used by one answer; a search that failed is told to the
model and counts nothing. What was said and searched is never made again: where a further round does
not fit the window, the answer ends with ``length``.

With :attr:`WebSearch.by_client` the client runs the loop: a search is carried out too, and its
results go to the client as a sealed receipt, in the arguments of the built-in call. Where the
upstream's own maker searches, the call is answered with its arguments, as the maker wants it.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from moongate.core.cards import Facts
from moongate.core.events import Due, Event, Finished, Searched
from moongate.core.ports import Ask, Probe, Upstream, WebSearch
from moongate.core.request import Call, Request
from moongate.search.finding import Finding
from moongate.search.run import Ran, Run
from moongate.search.sealing import Seal
from moongate.search.tool import query_of


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
        run = Run(ask, search, finding, self._seal)
        while not run.over():
            turn = run.turn()
            async with aclosing(run.stream(self.inner)) as batches:
                async for events in batches:
                    if out := turn.take(events):
                        yield out
            if run.over():
                break
            if turn.reason is None:
                return
            answers: list[tuple[Call, Ran]] = []
            for at, call in enumerate(turn.calls):
                if (why := run.forbids(call, at)) is not None:
                    ran = Ran.nothing("", why)
                else:
                    yield [Due(searches=1)]
                    ran = await run.search(query_of(call.arguments), turn, at)
                answers.append((call, ran))
                yield [Searched() if ran.searched else Searched(0, ran.error)]
            if search.by_client:
                yield run.carried(turn, answers)
                return
            more = run.go_on(turn, answers, thinks=ask.family == "kimi")
            if more.output_tokens_max > 0:
                yield [Due(round=more)]
            run.begin(more)
        yield run.cut()

    async def _maker(self, ask: Ask, search: WebSearch) -> AsyncGenerator[list[Event], None]:
        """The loop around a model whose maker searches: an answer to its call is its arguments."""
        run = Run(ask, search, None, self._seal)
        while not run.over():
            turn = run.turn()
            yield [Due(searches=1)]  # it searches within the round
            async with aclosing(run.stream(self.inner)) as batches:
                async for events in batches:
                    out = turn.take(events)
                    if turn.charged and any(type(event) is Finished for event in out):
                        yield [Searched()]
                    if out:
                        yield out
            if run.over():
                break
            if turn.reason is None:
                return
            if turn.charged:
                yield [Searched()]
            if search.by_client:
                yield run.as_called(turn, [call.arguments for call in turn.calls])
                return
            answers = [(call, Ran("", call.arguments, searched=True)) for call in turn.calls]
            more = run.go_on(turn, answers, thinks=False)
            if more.output_tokens_max > 0:
                yield [Due(round=more)]
            run.begin(more)
        yield run.cut()


def _without(facts: Facts) -> Facts:
    return msgspec.structs.replace(facts, lacks=facts.lacks | {"search"})
