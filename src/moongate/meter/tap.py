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
        self._finishes = 0
        self.pieces = 0
        self.counts = Counts()
        self.odd: list[str] = []

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
                self._finishes += 1

    @property
    def finished(self) -> bool:
        """Whether every choice has its finish."""
        return self._finishes >= self._choices

    def usage(self) -> Usage:
        """The usage as it stands: final after the stream's end, the delivered part before."""
        counts = self.counts
        estimated = False
        prompt = counts.prompt
        if prompt is None:
            prompt, estimated = self._estimate, True
        if prompt > self._bound:
            self.odd.append("prompt_over_bound")
            prompt = self._bound
        cached = counts.cached or 0
        if cached > prompt:
            self.odd.append("cached_over_prompt")
            cached = prompt
        output = counts.completion
        if output is None or (output == 0 and self.pieces):
            output, estimated = self.pieces, True
        reasoning = counts.reasoning
        if reasoning is not None and reasoning > output:
            self.odd.append("reasoning_over_output")
            reasoning = None
        return Usage(
            input=prompt - cached,
            cache_read=cached,
            output=output,
            reasoning=reasoning,
            estimated=estimated,
        )
