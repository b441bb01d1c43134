"""Whether the engine could hold an answer to a schema at all; what it could not is refused.

The engine constrains with llguidance and, where it does not understand a schema, generates
freely with a success status; so every schema passes :func:`gate` before anything is generated.
llguidance says what it cannot enforce. How large a schema may be was decided where it was read.
"""

import json
import re
from typing import Any, Final

from llguidance import LLMatcher

from moongate.core.errors import UpstreamRefused
from moongate.wire.schema.ends import ends
from moongate.wire.schema.instance import Instance
from moongate.wire.schema.words import Unsupported

_KEYWORD_LIST: Final = (
    "additionalItems additionalProperties allOf anyOf const contains dependentRequired "
    "dependentSchemas else enum exclusiveMaximum exclusiveMinimum format if items maxContains "
    "maxItems maxLength maxProperties maximum minContains minItems minLength minProperties "
    "minimum multipleOf not oneOf pattern patternProperties prefixItems properties propertyNames "
    "required then type unevaluatedItems unevaluatedProperties uniqueItems $ref $dynamicRef"
)
_KEYWORDS: Final = frozenset(_KEYWORD_LIST.split())
_HINTS: Final = (
    ("regex", "pattern"),
    ("format", "format"),
    ("registry", "$ref"),
    ("Invalid type", "type"),
    ("incompatible types", "type"),
    ("is unsatisfiable", "required"),
)


def gate(schema: Any) -> None:
    """Raise UpstreamRefused naming the keyword when the engine could not hold ``schema``."""
    text = json.dumps(schema)
    try:
        grammar = LLMatcher.grammar_from_json_schema(text)
        bad, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    except ValueError:
        raise UpstreamRefused("unsupported_schema", keyword="schema") from None
    if bad:
        raise UpstreamRefused("unsupported_schema", keyword=_keyword(messages))
    if not ends(schema, schema):
        raise UpstreamRefused("unsupported_schema", keyword="$ref")
    try:
        Instance(schema)  # by which the finished answer is judged
    except Unsupported as error:
        raise UpstreamRefused("unsupported_schema", keyword=error.keyword) from None


def _keyword(messages: list[str]) -> str:
    """A JSON Schema keyword that the complaint is about; never a word of the client's own."""
    text = " ".join(messages)
    listed = re.search(r'Unimplemented keys: \["([$A-Za-z]+)"', text)
    if listed and listed[1] in _KEYWORDS:
        return listed[1]
    for word in re.findall(r"[$A-Za-z]+", text):
        if word in _KEYWORDS and word not in ("not", "type", "required", "format", "if", "pattern"):
            return str(word)
    for word in re.findall(r'"([$A-Za-z]+)"', text):
        if word in _KEYWORDS:
            return str(word)
    return next((keyword for hint, keyword in _HINTS if hint in text), "schema")
