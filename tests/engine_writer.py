"""A writer that knows no mercy: at random, and never closing what need not be closed."""

import random

from llguidance import LLMatcher, LLTokenizer
from llguidance import numpy as masks

BYTES = LLTokenizer("byte")
"""A vocabulary of single bytes: no text takes more tokens in any other."""


def longest(grammar, seed, tokens):
    """Write at random, never closing what need not be closed; the text and its tokens."""
    matcher = LLMatcher(BYTES, grammar)
    assert not matcher.get_error()
    dice = random.Random(seed)
    mask = masks.allocate_token_bitmask(1, BYTES.vocab_size)
    text = bytearray()
    for count in range(tokens + 1):
        if matcher.is_stopped():
            return bytes(text), count
        masks.fill_next_token_bitmask(matcher, mask)
        bits = mask.view("uint8")
        allowed = [t for t in range(BYTES.vocab_size) if bits[0, t // 8] >> t % 8 & 1]
        wanted = [t for t in allowed if t not in (*b'"}]', BYTES.eos_token)]
        # Plain letters: a character of several bytes may be cut where the tokens run out.
        plain = [t for t in wanted if t < 0x80]
        token = dice.choice(plain or wanted or allowed)
        if token == BYTES.eos_token:
            return bytes(text), count + 1
        text.append(token)
        matcher.consume_token(token)
    return bytes(text), tokens + 1
