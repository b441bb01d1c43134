"""The tap: watches events pass and yields exactly one final usage.

It believes an upstream's counts where they are possible, and falls back to its own: the prompt's
count, and for the output the model's tokenizer over the text, or without one a token for each
non-empty content event (a lower bound); what we wrote ourselves is no output. Where counts
contradict each other it takes the reading that favours the customer and says so in ``odd``. An
answer that took several rounds, because the model searched in between, is metered round by round,
and its usage is the sum.
"""

from collections.abc import Iterable
from typing import Final

from moongate.core.events import (
    Aside,
    Event,
    Finished,
    Searched,
    Started,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    Used,
)
from moongate.core.money import Counts, Usage
from moongate.meter.output import Output
from moongate.meter.tokenizer import Tokenizer
from moongate.meter.tokens import Count

CACHED_MIN: Final = 256
"""No shorter prefix is cached, by Kimi's rule (Moonshot's documentation of context caching)."""
_WRITTEN: Final = frozenset({Text, Thinking, ToolArgs, Aside})
"""Events that carry text of the model."""


class Tap:
    """One request's meter. ``prompt`` is what we know of its prompt.

    ``choices`` is how many answers were asked for: it has finished when all of them have.
    ``tokenizer`` is the model's, where there is one.
    """

    def __init__(self, prompt: Count, choices: int = 1, tokenizer: Tokenizer | None = None) -> None:
        self._choices = choices
        self._first = prompt
        self._tokenizer = tokenizer
        self._held = 0, 1
        self.restart()

    _counts: Counts
    _output: Output | None

    def restart(self) -> None:
        """Forget an attempt that failed before anything was forwarded."""
        self.accepted = False
        self._done: set[int] = set()
        self.pieces = self.searches = 0
        self.search_errors: list[str] = []
        self._rounds: list[tuple[Counts, Usage, list[str]]] = []
        self._next: Count | None = None
        self._open(self._first)

    def expect(self, prompt: Count) -> None:
        """Another round is to come, with that prompt; it begins when the upstream accepts it."""
        self._next = prompt

    def see(self, events: Iterable[Event]) -> None:
        """Take note of a batch."""
        for event in events:
            kind = type(event)
            if kind in _WRITTEN:
                if event.text and not (kind is ToolArgs and event.ours):  # type: ignore[union-attr]  # those kinds carry text
                    self.pieces += 1
                    if self._output is not None and not self._counts.completion:
                        strand = (kind, event.choice, getattr(event, "index", 0))  # type: ignore[union-attr]  # as above
                        self._output.add(strand, event.text)  # type: ignore[union-attr]  # as above
            elif kind is Used:
                self._counts = event.counts  # type: ignore[union-attr]  # Used carries counts
            elif kind is ToolCall:
                if event.ours:  # type: ignore[union-attr]  # a call says whose it is
                    continue
                self.pieces += 1
                if self._output is not None and not self._counts.completion:
                    self._output.add(event, event.name)  # type: ignore[union-attr]  # it has a name
            elif kind is Started:
                self._accept()
            elif kind is Searched:
                self.searches += event.count  # type: ignore[union-attr]  # it has a count
                self.search_errors += [event.failed] if event.failed else []  # type: ignore[union-attr]  # as above
            elif kind is Finished:
                self._done.add(event.choice)  # type: ignore[union-attr]  # Finished has a choice

    def _accept(self) -> None:
        """The upstream accepted the request, or its next round."""
        self.accepted = True
        if self._next is not None:
            self._rounds.append((self._counts, *self._weighed(encode=True)))
            self._open(self._next)
            self._next = None

    def _open(self, prompt: Count) -> None:
        """A round begins."""
        self._before = self.count if self._rounds else 0
        self._pieces_before = self.pieces
        self._prompt = prompt
        self._counts = Counts()
        self._output = Output(self._tokenizer) if self._tokenizer else None

    @property
    def counts(self) -> Counts:
        """The upstream's own words, added up; ``None`` where a round lacks them."""
        told = [*(round[0] for round in self._rounds), self._counts]
        return Counts(
            _sum(one.prompt for one in told),
            _sum(one.completion for one in told),
            _sum(one.cached for one in told),
            _sum(one.reasoning for one in told),
        )

    @property
    def count(self) -> int:
        """Output tokens so far: the larger of the upstream's count and the content events."""
        own = self.pieces - self._pieces_before
        return self._before + max(own, self._counts.completion or 0)

    def after(self, events: Iterable[Event]) -> int:
        """What :attr:`count` would be at most once ``events`` were seen."""
        pieces, told = self.pieces - self._pieces_before, self._counts.completion or 0
        for event in events:
            kind = type(event)
            if kind is ToolArgs or kind is ToolCall:
                pieces += not event.ours  # type: ignore[union-attr]  # both say whose they are
            elif kind in _WRITTEN:
                pieces += 1
            elif kind is Used:
                told = max(told, event.counts.completion or 0)  # type: ignore[union-attr]  # as above
        return self._before + max(pieces, told)

    @property
    def begun(self) -> bool:
        """Whether something was made that another attempt would make twice."""
        return bool(self.pieces or self.searches)

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish."""
        return len(self._done) >= self._choices

    def unfinished(self) -> list[int]:
        """The choices that have no finish yet."""
        return [choice for choice in range(self._choices) if choice not in self._done]

    def infer(self, held: int, size: int) -> None:
        """Of an answer that was cut before it told: ``held`` of ``size`` characters were cached."""
        self._held = held, max(size, 1)

    def _inferred(self, prompt: int) -> int:
        held, size = self._held
        cached = min(prompt * held // size, prompt - 1)
        return cached if cached > CACHED_MIN else 0

    def usage(self, *, encode: bool = True) -> Usage:
        """The usage as it stands: final after the stream's end, the delivered part before.

        Without ``encode`` it costs nothing: text that nobody counted is one token a piece.
        """
        usages = [*(round[1] for round in self._rounds), self._weighed(encode=encode)[0]]
        if len(usages) == 1 and not self.searches:
            return usages[0]
        return Usage(
            input=sum(usage.input for usage in usages),
            cache_read=sum(usage.cache_read for usage in usages),
            output=sum(usage.output for usage in usages),
            searches=self.searches,
            reasoning=_sum(usage.reasoning for usage in usages),
            estimated=any(usage.estimated for usage in usages),
        )

    @property
    def odd(self) -> list[str]:
        """A word for each count that was impossible and not believed."""
        odd = [word for round in self._rounds for word in round[2]]
        return [*odd, *self._weighed(encode=False)[1]]

    def _weighed(self, *, encode: bool) -> tuple[Usage, list[str]]:
        """The usage of the round that runs, and what is odd about its counts."""
        counts, pieces = self._counts, self.pieces - self._pieces_before
        odd: list[str] = []
        estimated = False
        prompt = counts.prompt
        if prompt is None:
            prompt, estimated = self._prompt.tokens, True
        if prompt > self._prompt.bound:
            odd.append("prompt_over_bound")
            prompt = self._prompt.bound
        cached = counts.cached
        if cached is None:  # what is known of a prefix is known of the first prompt alone
            cached = 0 if self._rounds else self._inferred(prompt)
        if cached > prompt:
            odd.append("cached_over_prompt")
            cached = prompt
        output = counts.completion
        if output is None or (output == 0 and pieces):
            ours = self._output if encode else None
            output, estimated = pieces if ours is None else ours.tokens(), True
        reasoning = counts.reasoning
        if reasoning is not None and reasoning > output:
            odd.append("reasoning_over_output")
            reasoning = None
        usage = Usage(
            input=prompt - cached,
            cache_read=cached,
            output=output,
            reasoning=reasoning,
            estimated=estimated,
        )
        return usage, odd


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; ``None`` where one of them is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
