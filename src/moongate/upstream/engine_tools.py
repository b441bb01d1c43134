"""Which tool to call when the client leaves it open: a rule, because the model cannot tell.

A model of 135M parameters never calls a tool by itself, so words decide: the tool whose name
and description share most with the last question is called, and no tool after a tool's result,
so that every tool loop ends. The rule is pure and is stated in the documentation.
"""

import re
from typing import Final

from moongate.core.request import Request, Tool

_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_a-zA-Z]+")
_FILLERS: Final = (
    "a about add after again all also an and any are as ask at be been but by call can could "
    "current do does each for from function get give given has have help her here him his how "
    "i if in into is it its just know let like list make me my name need new no not now of on "
    "one or our out please provide return returns say she show so some specific take tell than "
    "that the their them then there these they this those three to tool two up us use used user "
    "using very want was we were what when where which who why will with would you your"
)
_TELLING_NOT: Final = frozenset(_FILLERS.split())
_NAME_WEIGHT: Final = 2


def pick(request: Request) -> Tool | None:
    """The tool to call under ``tool_choice: auto``, or ``None`` for an answer in text."""
    last = request.messages[-1] if request.messages else None
    if last is None or last.role != "user":
        return None
    return best(request)


def best(request: Request) -> Tool | None:
    """The function that shares most words with the last user message; ``None``: none does."""
    question = next((m.text() for m in reversed(request.messages) if m.role == "user"), "")
    asked = words(question)
    found: tuple[int, Tool] | None = None
    for tool in functions(request):
        name, rest = words(tool.name), words(tool.description or "")
        score = _NAME_WEIGHT * len(asked & name) + len(asked & (rest - name))
        if score and (found is None or score > found[0]):
            found = (score, tool)
    return found[1] if found else None


def functions(request: Request) -> tuple[Tool, ...]:
    """The tools that a client runs; an upstream's built-in ones are not ours to call."""
    return tuple(tool for tool in request.tools if tool.type == "function")


def words(text: str) -> frozenset[str]:
    """The telling words of ``text``, lower case, without common endings.

    ``readFile`` and ``read_file`` are two words each; where words are not set apart by spaces
    (Chinese, Japanese) pairs of characters stand for them.
    """
    out: set[str] = set()
    for word in _WORD.findall(text):
        if word.isascii():
            lower = word.lower()
            if len(lower) > 1 and lower not in _TELLING_NOT:
                out.add(_stem(lower))
        else:
            out.update(word[i : i + 2].lower() for i in range(max(1, len(word) - 1)))
    return frozenset(out)


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "es", "ed", "s"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > 4 else word
