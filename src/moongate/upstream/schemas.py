"""Tools and formats as a kind of upstream is sent them: the fields that we own, and ``strict``.

Moonshot's own API refuses a strict schema that is not of its subset (MFJS), and strict is what it
takes for granted. Such a schema goes out as ``strict: false``: nothing holds the answer to it there
while it is written, and our own check keeps the promise (see ``guarantee``).
"""

from typing import Any, Final

from moongate.wire.schema.mfjs import is_mfjs

_TOOL: Final = ("name", "description", "parameters", "strict")
_NOTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}}
"""What a function takes that did not say: Moonshot's API wants it said."""
_FORMAT: Final = ("name", "description", "schema", "strict")


def function_of(tool: dict[str, Any], *, mfjs: bool) -> dict[str, Any]:
    """What a tool's ``function`` holds.

    ``mfjs``: the other side wants ``parameters``, and takes no other strict schema.
    """
    function = {name: tool["function"][name] for name in _TOOL if name in tool["function"]}
    if mfjs and tool["type"] == "function":
        function.setdefault("parameters", _NOTHING)
        _loosen(function, function["parameters"])
    return function


def format_of(form: dict[str, Any], *, mfjs: bool) -> dict[str, Any]:
    """The ``response_format``."""
    out = {"type": form["type"]}
    if isinstance(form.get("json_schema"), dict):
        inner = {name: form["json_schema"][name] for name in _FORMAT if name in form["json_schema"]}
        if mfjs:
            _loosen(inner, inner.get("schema"))
        out["json_schema"] = inner
    return out


def _loosen(holder: dict[str, Any], schema: Any) -> None:
    if isinstance(schema, dict) and not is_mfjs(schema):
        holder["strict"] = False
