"""What the model may write when its answer must be JSON: grammars that always come to an end.

A schema that the engine could not hold is refused; one that can be worked out becomes a grammar
whose longest text fits the tokens that are left; the rest goes to the engine as it is, to be held
but not bounded. Knows schemas and tokens, no requests.
"""

from typing import Any, Final

from llguidance import LLMatcher

from moongate.core.errors import UpstreamRefused
from moongate.upstream.engine_bounds import bounded
from moongate.upstream.engine_forms import Unplain
from moongate.upstream.engine_gate import gate
from moongate.upstream.engine_prefix import NoBegin, begun
from moongate.upstream.engine_resume import NoRest, resumed

NO_SPACE: Final[dict[str, Any]] = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
    }
}
OBJECT: Final[dict[str, Any]] = {"type": "object"}
"""An object of any names and values."""


def constrain(schema: dict[str, Any], tokens: int, prefix: str = "") -> dict[str, Any]:
    """The engine's fields for an instance of ``schema`` that goes on from ``prefix``.

    Raises UpstreamRefused: for a schema that the engine could not hold, naming the keyword, and
    for a prefix that begins no instance.
    """
    plain = {**schema, **NO_SPACE}
    gate(plain)
    try:
        grammar = resumed(schema, begun(prefix), tokens) if prefix else bounded(schema, tokens)
        bad, _ = LLMatcher.validate_grammar_with_warnings(grammar)
    except (NoBegin, NoRest):
        raise UpstreamRefused("unsuitable_prefix") from None
    except (Unplain, RecursionError):
        bad = True
    if not bad:
        return {"grammar": grammar}
    if prefix.strip():
        raise UpstreamRefused("unsupported_ability", ability="partial")
    return {"json_schema": plain}
