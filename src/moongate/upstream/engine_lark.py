"""Words of llguidance's Lark form, and what they cost at most in tokens.

A literal's cost supposes that two plain characters share a token; strings and numbers are counted
at the worst. ``max_tokens`` ends a text wherever it stands, so it rules only text of which each
character may be the last: plain ASCII. Text with escapes or other scripts is bounded by length.
"""

import json
from typing import Any, Final

START: Final = "%llguidance {}"
_PLAIN: Final = r"[ !#-\[\]-~]"
_ESCAPED: Final = r'([ !#-\[\]-~]|\\["\\nt])'
_ANY: Final = r'([^"\\\x00-\x1f\x7f]|\\["\\nt])'
NUMBER: Final = r"/-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,2})?/"
INTEGER: Final = r"/-?(0|[1-9][0-9]{0,6})/"
FRACTION: Final = r"/\.[0-9]{1,2}/"
NUMBER_TOKENS: Final = 11
KEY_TOKENS: Final = 8


def literal(text: str) -> str:
    """``text`` as it stands."""
    return json.dumps(text, ensure_ascii=False)


def write(value: Any) -> str:
    """JSON as the grammars write it."""
    return json.dumps(value, ensure_ascii=False)


def cost(text: str) -> int:
    """The tokens that a literal takes."""
    if len(text) <= 4 and text.isascii():
        return len(text)
    plain = sum(map(str.isascii, text))
    return 2 + plain // 2 + len(text.encode()) - plain


def text_rules(name: str, tokens: int, least: int, most: int | None) -> list[str]:
    """Rules of a JSON string's inside: ``least`` to ``most`` characters, within ``tokens``."""
    top = tokens if most is None else most

    def times(part: int) -> str:
        high = max(least, min(top, tokens // part))
        return f"{{{least},{high}}}"

    kinds = [f"/{_ESCAPED}{times(2)}/", f"/{_ANY}{times(4)}/"]
    if least > 1:  # max_tokens would not wait for the last of them
        return [f"{name}: {' | '.join([f'/{_PLAIN}{times(1)}/', *kinds])}"]
    plain = f"{name}p[max_tokens={max(2, tokens)}]: /{_PLAIN}{{{least},{most or ''}}}/"
    return [f"{name}: {' | '.join([f'{name}p', *kinds])}", plain]
