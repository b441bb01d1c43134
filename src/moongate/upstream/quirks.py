"""What each kind of HTTP upstream wants changed in a chat body on its way out, as one table.

The codec writes Kimi's native tongue; :func:`shape` rebuilds that body for one kind: fields that
we own are written by us, everything else goes only when it is on a list here. Pure functions over
dicts; this module refuses to know addresses, credentials and connections.

Sources: Moonshot API documentation (chat, partial mode, thinking), vLLM and SGLang
``ChatCompletionRequest`` definitions, OpenAI API reference (chat completions).
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from moongate.core.errors import UpstreamRefused, safe_name
from moongate.core.ports import Ask
from moongate.core.request import OWNED, Call, Message, Request
from moongate.upstream.schemas import format_of, function_of
from moongate.wire.ids import numbered

HttpKind = Literal["moonshot", "vllm", "sglang", "openai"]

_ENGINE_FORWARD: Final = frozenset(
    {"logit_bias", "min_p", "min_tokens", "parallel_tool_calls", "repetition_penalty"}
    | {"seed", "top_k"}
)


class Quirks(msgspec.Struct, frozen=True):
    """One row of :data:`QUIRKS`.

    ``cap``: the field that caps the answer (tokens). ``thinking``: Kimi's ``thinking`` object,
    the chat template's argument, or no switch. ``sampling``: whether Kimi's fixed sampling is
    sent where the client said nothing (engines do not fix it themselves). ``usage``: stream
    options beside ``include_usage``. ``partial``: as a message field, by template prefill, or
    refused. ``cache``: how prompt caches are told apart: by the client's key, or by a salt per
    tenant. ``reasoning``: the names under which replayed reasoning is sent. ``builtins``:
    whether built-in functions exist there.
    ``mfjs``: whether a strict schema must be of Moonshot's subset there, and a function needs one.
    ``references``: address schemes that media may have. ``media``: fields of a media object.
    ``forward``: fields unknown to us that its API documents.
    """

    cap: Literal["max_tokens", "max_completion_tokens"]
    thinking: Literal["object", "template", "none"]
    sampling: bool
    usage: tuple[str, ...]
    partial: Literal["message", "template", "refused"]
    cache: Literal["key", "salt"]
    reasoning: tuple[str, ...]
    builtins: bool
    mfjs: bool
    references: tuple[str, ...]
    media: tuple[str, ...]
    forward: frozenset[str]


# Not on any list, though documented somewhere: `logprobs` and `top_logprobs` (our answers cannot
# carry them), `store` and `metadata` (they ask the other side to keep things), `service_tier` (it
# changes the price). Dropped fields are named to the client, so none is lost silently.
QUIRKS: Final[dict[HttpKind, Quirks]] = {
    "moonshot": Quirks(
        cap="max_completion_tokens",
        thinking="object",
        sampling=False,
        usage=(),
        partial="message",
        cache="key",
        reasoning=("reasoning_content",),
        builtins=True,
        mfjs=True,
        references=("data:", "ms://"),
        media=("url",),
        forward=frozenset({"safety_identifier"}),
    ),
    "vllm": Quirks(
        cap="max_completion_tokens",
        thinking="template",
        sampling=True,
        usage=("continuous_usage_stats",),
        partial="template",
        cache="salt",
        # Releases differ: the older name is read by some, the newer one by others.
        reasoning=("reasoning_content", "reasoning"),
        builtins=False,
        mfjs=False,
        references=("data:",),
        media=("url", "detail"),
        forward=_ENGINE_FORWARD,
    ),
    "sglang": Quirks(
        cap="max_completion_tokens",
        thinking="template",
        sampling=True,
        usage=("continuous_usage_stats",),
        partial="template",
        cache="salt",
        reasoning=("reasoning_content",),
        builtins=False,
        mfjs=False,
        references=("data:",),
        media=("url", "detail"),
        forward=_ENGINE_FORWARD,
    ),
    "openai": Quirks(
        # The older name is what every compatible host still takes.
        cap="max_tokens",
        thinking="none",
        sampling=False,
        usage=(),
        partial="refused",
        cache="key",
        reasoning=("reasoning_content",),
        builtins=False,
        mfjs=False,
        references=("data:",),
        media=("url", "detail"),
        forward=frozenset(
            {"logit_bias", "parallel_tool_calls", "reasoning_effort", "safety_identifier"}
            | {"seed", "user", "verbosity"}
        ),
    ),
}

_CARRIED: Final = (
    *("tools", "tool_choice", "response_format"),
    *("temperature", "top_p", "n", "presence_penalty", "frequency_penalty", "stop"),
)

_TEMPERATURE_THINKING: Final = 1.0
_TEMPERATURE_INSTANT: Final = 0.6
_TOP_P: Final = 0.95


def shape(
    body: dict[str, Any], ask: Ask, kind: HttpKind, forward: Iterable[str] = ()
) -> dict[str, Any]:
    """The body to send to an upstream of ``kind``, from the chat codec's ``body`` for ``ask``.

    ``forward`` extends the kind's own list; a name in :data:`OWNED` is never forwarded. ``body`` is
    not changed. Raises UpstreamRefused (``unsupported_ability``, ``image_url_not_allowed``) for
    what this kind cannot be sent.
    """
    quirks = QUIRKS[kind]
    request = ask.request
    allowed = allowed_names(kind, forward)
    out: dict[str, Any] = {name: body[name] for name in request.extra if name in allowed}
    out["model"] = ask.model
    known = _known(ask)
    out["messages"] = [_message(m, k, quirks) for m, k in zip(body["messages"], known, strict=True)]
    for name in _CARRIED:
        if body.get(name) is not None:
            out[name] = body[name]
    if "tools" in out:
        out["tools"] = [_tool(tool, quirks) for tool in out["tools"]]
    if "response_format" in out:
        out["response_format"] = format_of(out["response_format"], mfjs=quirks.mfjs)
    out[quirks.cap] = ask.output_tokens_max
    _switch_thinking(out, request, quirks)
    _fix_sampling(out, request, quirks)
    _continue_partial(out, request, quirks)
    if quirks.cache == "salt":
        out["cache_salt"] = ask.tenant
    elif request.cache_key is not None:
        # Our customers share one account there: equal words of two of them must not meet.
        key = request.cache_key.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(key, key=ask.tenant.encode()[:64], digest_size=16)
        out["prompt_cache_key"] = digest.hexdigest()
    out["stream"] = True
    out["stream_options"] = dict.fromkeys(("include_usage", *quirks.usage), True)
    return out


def allowed_names(kind: HttpKind, forward: Iterable[str] = ()) -> frozenset[str]:
    """Names of unknown top-level fields that an upstream of ``kind`` is sent."""
    return (QUIRKS[kind].forward | frozenset(forward)) - OWNED


def dropped_names(request: Request, kind: HttpKind, forward: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of fields that an upstream of ``kind`` is not sent, for ``x-moongate-dropped``.

    These are unknown ones, and a switch that it does not have. Fields of messages and tools
    stand as ``messages.NAME`` and ``tools.NAME``, only where they hold something. A name that
    is no plain identifier is left out: it is not ours to echo.
    """
    allowed = allowed_names(kind, forward)
    names = [name for name in request.extra if name not in allowed]
    if request.thinking is False and QUIRKS[kind].thinking == "none":
        names.append("thinking")
    for where, items in (("messages", request.messages), ("tools", request.tools)):
        held = {name for item in items for name, value in item.extra.items() if _holds(value)}
        names.extend(f"{where}.{name}" for name in sorted(held) if safe_name(name) == name)
    return tuple(name for name in names if safe_name(name) == name)


def _holds(value: object) -> bool:
    return value is not None and value not in ("", [], {})


def _pick(source: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: source[name] for name in names if name in source}


def _known(ask: Ask) -> tuple[Message, ...]:
    """The messages with the ids that this model is to see: a Kimi reads its own."""
    messages = ask.request.messages
    return numbered(messages) if ask.family == "kimi" else messages


def _message(message: dict[str, Any], known: Message, quirks: Quirks) -> dict[str, Any]:
    """One message with the fields that we own and no others."""
    role = message["role"]
    # Kimi's chat template knows no `developer`; every server of the family knows `system`.
    out: dict[str, Any] = {"role": "system" if role == "developer" else role}
    if "content" in message:
        content = message["content"]
        if isinstance(content, list):
            content = [_part(part, quirks) for part in content]
        out["content"] = content
    if known.name is not None:
        out["name"] = known.name
    if known.tool_call_id is not None:
        out["tool_call_id"] = known.tool_call_id
    if known.thinking is not None:
        out.update(dict.fromkeys(quirks.reasoning, known.thinking))
    if known.tool_calls:
        out["tool_calls"] = [_call(call, quirks) for call in known.tool_calls]
    if message.get("partial") and quirks.partial == "message":
        out["partial"] = True
    return out


def _part(part: dict[str, Any], quirks: Quirks) -> dict[str, Any]:
    """One content part; media become objects, by an address that this kind may be given."""
    kind = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    given = part[kind]
    media = {"url": given} if isinstance(given, str) else _pick(given, quirks.media)
    if not media["url"].startswith(quirks.references):
        # Engines would fetch it from inside the operator's network.
        raise UpstreamRefused("image_url_not_allowed")
    return {"type": kind, kind: media}


def _call(call: Call, quirks: Quirks) -> dict[str, Any]:
    if call.type != "function" and not quirks.builtins:
        raise UpstreamRefused("unsupported_ability", ability="built-in functions")
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _tool(tool: dict[str, Any], quirks: Quirks) -> dict[str, Any]:
    if tool["type"] != "function" and not quirks.builtins:
        raise UpstreamRefused("unsupported_ability", ability="built-in functions")
    return {"type": tool["type"], "function": function_of(tool, mfjs=quirks.mfjs)}


def _continues(request: Request) -> bool:
    return bool(request.messages) and request.messages[-1].partial


def _switch_thinking(out: dict[str, Any], request: Request, quirks: Quirks) -> None:
    """Thinking is on unless the request says otherwise (Kimi's default)."""
    if quirks.thinking == "template":
        # What continues a prefix does not think anew, and the engine's parser of reasoning, which
        # reads this same switch, must not take it for reasoning.
        thinks = request.thinking is not False and not _continues(request)
        out["chat_template_kwargs"] = {"thinking": thinks}
    elif quirks.thinking == "object" and request.thinking is not None:
        out["thinking"] = {"type": "enabled" if request.thinking else "disabled"}


def _fix_sampling(out: dict[str, Any], request: Request, quirks: Quirks) -> None:
    if quirks.sampling:
        instant = request.thinking is False
        out.setdefault("temperature", _TEMPERATURE_INSTANT if instant else _TEMPERATURE_THINKING)
        out.setdefault("top_p", _TOP_P)


def _continue_partial(out: dict[str, Any], request: Request, quirks: Quirks) -> None:
    if not _continues(request):
        return
    if quirks.partial == "refused":
        raise UpstreamRefused("unsupported_ability", ability="partial mode")
    if quirks.partial == "template":
        out["continue_final_message"] = True
        out["add_generation_prompt"] = False
