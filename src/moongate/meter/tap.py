"""The tap: watches events pass and yields exactly one final usage.

It believes an upstream's counts where they are possible, and falls back to its own: the prompt's
estimate, and one output token for each non-empty content event (a lower bound). Where counts
contradict each other it takes the reading that favours the customer and says so in ``odd``.
"""

from collections.abc import Iterable

from moongate.core.events import Event, Finished, Started, Text, Thinking, ToolArgs, ToolCall, Used
from moongate.core.money import Counts, Usage


class Tap:
    """One request's meter. ``prompt_bound`` and ``prompt_estimate`` are tokens.

    ``choices`` is how many answers were asked for: it has finished when all of them have.
    """

    def __init__(self, prompt_bound: int, prompt_estimate: int, choices: int = 1) -> None:
        self._choices = choices
        self._bound = prompt_bound
        self._estimate = prompt_estimate
        self.restart()

    def restart(self) -> None:
        """Forget an attempt that failed before anything was forwarded."""
        self.accepted = False
        self._done: set[int] = set()
        self.pieces = 0
        self.counts = Counts()

    def see(self, events: Iterable[Event]) -> None:
        """Take note of a batch."""
        for event in events:
            kind = type(event)
            if kind is Text or kind is Thinking or kind is ToolArgs:
                if event.text:  # type: ignore[union-attr]  # the three kinds carry text
                    self.pieces += 1
            elif kind is Used:
                self.counts = event.counts  # type: ignore[union-attr]  # Used carries counts
            elif kind is ToolCall:
                self.pieces += 1
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

    def usage(self) -> Usage:
        """The usage as it stands: final after the stream's end, the delivered part before."""
        return self._weighed()[0]

    @property
    def odd(self) -> list[str]:
        """A word for each count that was impossible and not believed."""
        return self._weighed()[1]

    def _weighed(self) -> tuple[Usage, list[str]]:
        counts = self.counts
        odd: list[str] = []
        estimated = False
        prompt = counts.prompt
        if prompt is None:
            prompt, estimated = self._estimate, True
        if prompt > self._bound:
            odd.append("prompt_over_bound")
            prompt = self._bound
        cached = counts.cached or 0
        if cached > prompt:
            odd.append("cached_over_prompt")
            cached = prompt
        output = counts.completion
        if output is None or (output == 0 and self.pieces):
            output, estimated = self.pieces, True
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
