"""Patterns of clients: whether one is safe to run, and whether a text has it, in linear time.

A pattern searches, as JSON Schema says, and means what ECMA-262 says as far as RE2 can say it: no
look-around, no back-reference. The judge is the matcher of the guided decoder (llguidance), so what
a model is held to while it writes and what is checked afterwards is the same.
"""

import json
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

PATTERN_CHARS: Final = 32
"""What a pattern counts as beside its length."""
PATTERN_CHARS_MAX: Final = 4096
"""Of all patterns of one request together: they compile in some 50 ms."""


class Pattern:
    """One pattern, compiled. Not for two threads at once. Raises ValueError when it is not safe."""

    def __init__(self, pattern: str) -> None:
        self._matcher = _matcher(pattern)
        if self._matcher is None:
            raise ValueError("not a pattern that is matched in linear time")

    def found_in(self, text: str) -> bool:
        """Whether ``text`` has the pattern somewhere."""
        assert self._matcher is not None
        self._matcher.reset()
        # The matcher reads JSON strings, in which it wants this one character escaped.
        data = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
        tokens = list(data.encode("utf-8", "surrogatepass"))
        return self._matcher.try_consume_tokens(tokens) == len(tokens) and bool(
            self._matcher.is_accepting()
        )


def _matcher(pattern: str) -> "LLMatcher | None":
    from llguidance import LLMatcher  # noqa: PLC0415 - loading it takes 50 ms; few need it

    schema = {"type": "string", "pattern": pattern}
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        matcher = LLMatcher(_bytes(), grammar, log_level=0)
    except (ValueError, UnicodeError):
        return None
    return None if matcher.is_error() else matcher


@cache
def _bytes() -> "LLTokenizer":
    """A tokenizer whose tokens are single bytes."""
    from llguidance import LLTokenizer  # noqa: PLC0415 - as above

    return LLTokenizer("byte")
