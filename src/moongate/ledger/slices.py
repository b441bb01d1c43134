"""The arithmetic of a rolling hold: what is set aside first, what it covers, what to ask next.

A hold is the prompt's bound and a slice of output; while the answer grows, further slices are
asked for, never past the client's own cap. Pure integers: nano-dollars and tokens.
"""

from typing import Final

import msgspec

from moongate.core.money import Price

LEAST_TOKENS: Final = 256
"""A first slice shrinks to what is affordable, but not below this (or the client's smaller cap)."""


class Slices(msgspec.Struct, frozen=True):
    """How output is covered, in tokens.

    ``first`` at the start; ``step`` with each extension, asked when fewer than ``low`` are left.
    ``outage`` is how far an answer may run on while the ledger cannot be reached.
    """

    first: int = 4096
    step: int = 8192
    low: int = 1024
    outage: int = 16_384


class Terms(msgspec.Struct, frozen=True):
    """What one request can cost: its prompt at most, and one token of output (nano-dollars).

    ``output_tokens_max`` is its cap over all choices. ``prompt_nanos`` grows with what an answer
    needs on its way: the prompts of further rounds, and fees.
    """

    prompt_nanos: int
    unit_nanos: int
    output_tokens_max: int

    @classmethod
    def of(cls, price: Price, prompt_bound: int, output_tokens_max: int) -> "Terms":
        """The terms of a prompt of at most ``prompt_bound`` tokens, cached or not."""
        return cls(prompt_bound * max(price.input, price.cached), price.output, output_tokens_max)

    def and_also(self, nanos: int) -> "Terms":
        """The same with ``nanos`` more that stand beside the output."""
        return msgspec.structs.replace(self, prompt_nanos=self.prompt_nanos + nanos)

    def first(self, slices: Slices) -> tuple[int, int]:
        """(wanted, least) to set aside before the upstream is asked, in nano-dollars."""
        wanted = min(slices.first, self.output_tokens_max)
        least = min(LEAST_TOKENS, wanted)
        return (
            self.prompt_nanos + wanted * self.unit_nanos,
            self.prompt_nanos + least * self.unit_nanos,
        )

    def cover(self, held_nanos: int) -> int:
        """Output tokens that ``held_nanos`` pay for beside the prompt."""
        if self.unit_nanos == 0:
            return self.output_tokens_max
        paid = (held_nanos - self.prompt_nanos) // self.unit_nanos
        return max(0, min(self.output_tokens_max, paid))

    def next(self, held_nanos: int, slices: Slices) -> int:
        """Tokens that the next extension asks for; 0 when the cap is covered."""
        return min(slices.step, self.output_tokens_max - self.cover(held_nanos))
