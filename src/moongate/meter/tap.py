"""The tap: watches events pass and yields exactly one final usage.

It believes an upstream's counts where they are possible, and falls back to its own: the prompt's
count, and for the output the model's tokenizer over the text, or without one a token for each
non-empty content event (a lower bound). Where counts contradict each other it takes the reading
that favours the customer and says so in ``odd``.
"""

from collections.abc import Iterable
from typing import Final

from moongate.core.events import Event, Finished, Started, Text, Thinking, ToolArgs, ToolCall, Used
from moongate.core.money import Counts, Usage
from moongate.meter.output import Output
from moongate.meter.tokenizer import Tokenizer
from moongate.meter.tokens import Count

CACHED_MIN: Final = 256
"""No shorter prefix is cached, by Kimi's rule (Moonshot's documentation of context caching)."""


class Tap:
    """One request's meter. ``prompt`` is what we know of its prompt.

    ``choices`` is how many answers were asked for: it has finished when all of them have.
    ``tokenizer`` is the model's, where there is one.
    """

    def __init__(self, prompt: Count, choices: int = 1, tokenizer: Tokenizer | None = None) -> None:
        self._choices = choices
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._held = 0, 1
        self.restart()

    def restart(self) -> None:
        """Forget an attempt that failed before anything was forwarded."""
        self.accepted = False
        self._done: set[int] = set()
        self.pieces = 0
        self.counts = Counts()
        self._output = Output(self._tokenizer) if self._tokenizer else None

    def see(self, events: Iterable[Event]) -> None:
        """Take note of a batch."""
        for event in events:
            kind = type(event)
            if kind is Text or kind is Thinking or kind is ToolArgs:
                if event.text:  # type: ignore[union-attr]  # the three kinds carry text
                    self.pieces += 1
                    if self._output is not None and not self.counts.completion:
                        strand = (kind, event.choice, getattr(event, "index", 0))  # type: ignore[union-attr]  # as above
                        self._output.add(strand, event.text)  # type: ignore[union-attr]  # as above
            elif kind is Used:
                self.counts = event.counts  # type: ignore[union-attr]  # Used carries counts
            elif kind is ToolCall:
                self.pieces += 1
                if self._output is not None and not self.counts.completion:
                    self._output.add(event, event.name)  # type: ignore[union-attr]  # it has a name
            elif kind is Started:
                self.accepted = True
            elif kind is Finished:
                self._done.add(event.choice)  # type: ignore[union-attr]  # Finished has a choice

    @property
    def count(self) -> int:
        """Output tokens so far: the larger of the upstream's count and the content events."""
        return max(self.pieces, self.counts.completion or 0)

    def after(self, events: Iterable[Event]) -> int:
        """What :attr:`count` would be at most once ``events`` were seen."""
        pieces, told = self.pieces, self.counts.completion or 0
        for event in events:
            kind = type(event)
            if kind is Text or kind is Thinking or kind is ToolArgs or kind is ToolCall:
                pieces += 1
            elif kind is Used:
                told = max(told, event.counts.completion or 0)  # type: ignore[union-attr]  # as above
        return max(pieces, told)

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
        return self._weighed(encode=encode)[0]

    @property
    def odd(self) -> list[str]:
        """A word for each count that was impossible and not believed."""
        return self._weighed(encode=False)[1]

    def _weighed(self, *, encode: bool) -> tuple[Usage, list[str]]:
        counts = self.counts
        odd: list[str] = []
        estimated = False
        prompt = counts.prompt
        if prompt is None:
            prompt, estimated = self._prompt.tokens, True
        if prompt > self._prompt.bound:
            odd.append("prompt_over_bound")
            prompt = self._prompt.bound
        cached = self._inferred(prompt) if counts.cached is None else counts.cached
        if cached > prompt:
            odd.append("cached_over_prompt")
            cached = prompt
        output = counts.completion
        if output is None or (output == 0 and self.pieces):
            ours = self._output if encode else None
            output, estimated = self.pieces if ours is None else ours.tokens(), True
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
