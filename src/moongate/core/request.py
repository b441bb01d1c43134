"""A conversation and what is asked of the model, in no dialect.

The shape follows Kimi's native tongue, OpenAI chat, because every other dialect maps into
it without loss. Absent (``None``) and empty (``""``, ``()``) differ wherever the wire tells
them apart. ``extra`` holds fields that we do not read, verbatim, so that a request read
and written in one dialect loses nothing.
"""

from typing import Any, Final, Literal

from moongate.core.sealed import Sealed

OWNED: Final = frozenset(
    {"model", "messages", "tools", "tool_choice", "response_format", "thinking", "temperature"}
    | {"top_p", "n", "presence_penalty", "frequency_penalty", "stop", "stream", "stream_options"}
    | {"max_tokens", "max_completion_tokens", "prompt_cache_key", "cache_salt"}
    | {"chat_template", "chat_template_kwargs", "continue_final_message"}
    | {"add_generation_prompt", "functions", "function_call"}
)
"""Top-level fields that only we write for an upstream: no client, and no ``forward`` list, can put
one into a body. The last two are the tools of long ago, whose answers nobody here reads."""

Role = Literal["system", "user", "assistant", "tool", "developer"]
CallType = Literal["function", "builtin_function"]


class TextPart(Sealed, frozen=True):
    """A piece of text among other parts."""

    text: str
    extra: dict[str, Any] = {}


class ImagePart(Sealed, frozen=True):
    """A picture by address (``data:``, ``https:``, ``ms://``). ``bare``: sent as a string."""

    url: str
    bare: bool = False
    extra: dict[str, Any] = {}


class VideoPart(Sealed, frozen=True):
    """A video by address (``data:``, ``ms://``). ``bare``: sent as a plain string.

    ``duration_ms`` is how long its file says that it plays, ``size`` how wide and high (pixels),
    where somebody has looked.
    """

    url: str
    bare: bool = False
    extra: dict[str, Any] = {}
    duration_ms: int | None = None
    size: tuple[int, int] | None = None


Part = TextPart | ImagePart | VideoPart


class Call(Sealed, frozen=True):
    """A finished tool call. ``arguments`` is the JSON text that the model wrote, unparsed."""

    id: str
    name: str
    arguments: str
    type: CallType = "function"
    extra: dict[str, Any] = {}


class Message(Sealed, frozen=True):
    """One message. ``thinking`` is ``reasoning_content``: ``None`` absent, ``""`` present, empty.

    ``content`` is a string, a tuple of parts, or ``None`` (absent or null).
    """

    role: Role
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    thinking: str | None = None
    tool_calls: tuple[Call, ...] = ()
    tool_call_id: str | None = None
    partial: bool = False
    extra: dict[str, Any] = {}

    def text(self) -> str:
        """All text of the message, its text parts joined without a separator."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


class Tool(Sealed, frozen=True):
    """A tool on offer. ``parameters`` is a JSON Schema; ``strict`` ``None`` means not said."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    type: CallType = "function"
    extra: dict[str, Any] = {}


class ToolChoice(Sealed, frozen=True):
    """``auto``, ``none``, ``required``, or ``named`` with the tool's ``name``."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


class Format(Sealed, frozen=True):
    """How the answer must look: ``text``, ``json_object`` or ``json_schema`` with its schema."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    extra: dict[str, Any] = {}


class Sampling(Sealed, frozen=True):
    """How tokens are drawn; ``None`` is not said. ``stop``: up to five strings of 32 bytes."""

    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()


class Request(Sealed, frozen=True):
    """One request for an answer.

    ``thinking`` is ``None`` when not said (the model's default holds). ``output_tokens_max``
    caps reasoning and content together (tokens). ``cache_key`` is the client's hint for
    cache affinity. ``extra`` goes to an upstream only as far as its kind's list lets it.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    format: Format | None = None
    thinking: bool | None = None
    sampling: Sampling = Sampling()
    output_tokens_max: int | None = None
    stream: bool = False
    include_usage: bool = False
    cache_key: str | None = None
    extra: dict[str, Any] = {}
