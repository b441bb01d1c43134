"""What a client asks for, as a model is offered it: `$web_search` becomes a function that we run.

Pure. The maker's built-in function, OpenAI's ``web_search_options``, and receipts that a client
carried back all become plain functions, calls and tool messages here, so that every upstream
understands them. Where the maker itself is to search, the built-in stays what it is.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from moongate.core.errors import Refused
from moongate.core.ports import Source, WebSearch
from moongate.core.request import Call, Message, Request, Tool, ToolChoice
from moongate.core.sealed import Sealed
from moongate.search import quoting
from moongate.search.results import QUERY_CHARS_MAX, plain
from moongate.search.sealing import Seal

BUILTIN: Final = "$web_search"
OPTIONS: Final = "web_search_options"
LOST: Final = "x-moongate-search-lost"
_NAMES: Final = ("web_search", "moongate_web_search")
_SIZES: Final = {"low": 3, "medium": 5, "high": 8}
_OPTION_FIELDS: Final = frozenset({"search_context_size", "user_location"})
_LOST: Final = '{"error":"The results of this search were lost on the way."}'
_DESCRIPTION: Final = (
    "Searches the web and returns quoted results with their sources. Use it for what is recent or "
    "what you do not know."
)
_PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "query": {
            "type": "string",
            "description": "What to look for, in a few words.",
            "maxLength": QUERY_CHARS_MAX,
        }
    },
    "required": ["query"],
    "additionalProperties": False,
}


class Prepared(Sealed, frozen=True):
    """A request as upstreams are asked it. ``search``: how its answer may search, if at all.

    ``lost`` are the indexes of messages whose results could not be opened; ``left_out`` names
    fields that nobody acts on.
    """

    request: Request
    search: WebSearch | None = None
    lost: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()


def wanted(request: Request) -> bool:
    """Whether the answer to ``request`` may search the web."""
    return request.extra.get(OPTIONS) is not None or any(
        tool.type == "builtin_function" for tool in request.tools
    )


def prepare(request: Request, tenant: str, seal: Seal, *, by_client: bool = False) -> Prepared:
    """``request`` for upstreams that know no built-in search. Raises Refused."""
    carries = any(
        call.name == BUILTIN for message in request.messages for call in message.tool_calls
    )
    if not (wanted(request) or carries or OPTIONS in request.extra):
        return Prepared(request)
    name = _free_name(request.tools)
    messages, lost, sources = _opened(request.messages, tenant, seal, name)
    extra, results_max, left_out = _options(request)
    if not wanted(request):
        changed = msgspec.structs.replace(request, messages=messages, extra=extra)
        return Prepared(changed, None, lost, left_out)
    ours = Tool(name, _DESCRIPTION, _PARAMETERS)
    tools = tuple(ours if tool.type == "builtin_function" else tool for tool in request.tools)
    choice = request.tool_choice
    if choice is not None and choice.name == BUILTIN:
        choice = ToolChoice("named", name)
    changed = msgspec.structs.replace(
        request, messages=messages, tools=tools if ours in tools else (*tools, ours),
        tool_choice=choice, extra=extra,
    )  # fmt: skip
    search = WebSearch(name, by_client=by_client, results_max=results_max, sources=sources)
    return Prepared(changed, None if _forbidden(choice) else search, lost, left_out)


def pass_on(request: Request, *, by_client: bool = False) -> Prepared:
    """``request`` for the maker, which searches itself. Raises Refused: not while thinking."""
    extra, _, left_out = _options(request)
    if not wanted(request):
        return Prepared(msgspec.structs.replace(request, extra=extra), None, (), left_out)
    if request.thinking is not False:
        what = "$web_search is incompatible with thinking enabled: turn thinking off."
        raise Refused("invalid_value", "thinking", what=what)
    tools = request.tools
    if all(tool.type != "builtin_function" for tool in tools):
        tools = (*tools, Tool(BUILTIN, type="builtin_function"))
    changed = msgspec.structs.replace(request, tools=tools, extra=extra)
    search = None if _forbidden(request.tool_choice) else WebSearch(BUILTIN, by_client=by_client)
    return Prepared(changed, search, (), left_out)


def shown(request: Request, search: WebSearch | None) -> Request:
    """``request`` as its answer is to look to the client, which never sees what we run."""
    if search is None:
        return request
    choice = request.tool_choice
    if search.by_client:
        built_in = Tool(BUILTIN, type="builtin_function")
        tools = tuple(built_in if tool.name == search.tool else tool for tool in request.tools)
        if choice is not None and choice.name == search.tool:
            choice = ToolChoice("named", BUILTIN)
    else:
        tools = tuple(tool for tool in request.tools if tool.name != search.tool)
        if choice is not None and choice.mode in ("required", "named"):
            choice = None  # a search is a call as well
    return msgspec.structs.replace(request, tools=tools, tool_choice=choice)


def query_of(arguments: str) -> str:
    """The query of a call, plain and bounded; empty where there is none."""
    try:
        found = msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    query = found.get("query") if isinstance(found, dict) else None
    return plain(query, QUERY_CHARS_MAX).replace("\n", " ") if isinstance(query, str) else ""


def _forbidden(choice: ToolChoice | None) -> bool:
    """Whether no tool may be called, ours neither."""
    return choice is not None and choice.mode == "none"


def _options(request: Request) -> tuple[dict[str, Any], int, tuple[str, ...]]:
    """The unknown fields without OpenAI's options, how many results, and what is not acted on."""
    if OPTIONS not in request.extra:
        return request.extra, _SIZES["medium"], ()
    extra = {name: value for name, value in request.extra.items() if name != OPTIONS}
    options = request.extra[OPTIONS]
    if options is None:
        return extra, _SIZES["medium"], ()
    if not isinstance(options, dict):
        raise Refused("invalid_type", OPTIONS, what=f"{OPTIONS} must be an object.")
    size = options.get("search_context_size") or "medium"
    if not isinstance(size, str) or size not in _SIZES:
        what = f"search_context_size must be one of {', '.join(_SIZES)}."
        raise Refused("invalid_value", f"{OPTIONS}.search_context_size", what=what)
    ignored = ("user_location",) if options.get("user_location") is not None else ()
    unknown = ("?",) if options.keys() - _OPTION_FIELDS else ()
    return extra, _SIZES[size], tuple(f"{OPTIONS}.{name}" for name in (*ignored, *unknown))


def _free_name(tools: Iterable[Tool]) -> str:
    """A name for our function that no tool of the client's has."""
    taken = {tool.name for tool in tools}
    free = (name for name in _NAMES if name not in taken)
    return next(free, None) or next(
        name for at in range(len(taken) + 1) if (name := f"{_NAMES[1]}_{at}") not in taken
    )


def _opened(
    messages: tuple[Message, ...], tenant: str, seal: Seal, name: str
) -> tuple[tuple[Message, ...], tuple[int, ...], tuple[Source, ...]]:
    """The conversation with results where receipts stood, where none were, and their sources."""
    out: list[Message] = []
    lost: list[int] = []
    sources: list[Source] = []
    ours: set[str] = set()
    for at, message in enumerate(messages):
        made = message
        if message.role == "assistant":
            ours = {call.id for call in message.tool_calls if call.name == BUILTIN}
            if ours:
                calls = tuple(_called(call, tenant, seal, name) for call in message.tool_calls)
                made = msgspec.structs.replace(message, tool_calls=calls)
        elif message.role == "tool" and message.tool_call_id in ours:
            carried = seal.open(tenant, message.text())
            if carried is None:
                lost.append(at)
                text = _LOST
            else:
                text = quoting.renumbered(carried.message, len(sources) + 1)
                sources += quoting.sources_in(text)
            made = msgspec.structs.replace(message, content=text, name=None)
        out.append(made)
    return tuple(out), tuple(lost), tuple(sources)


def _called(call: Call, tenant: str, seal: Seal, name: str) -> Call:
    """A call of the built-in as the model made it: a function and its query."""
    if call.name != BUILTIN:
        return call
    carried = seal.open(tenant, call.arguments)
    arguments = msgspec.json.encode({"query": carried.query if carried else ""}).decode()
    return Call(call.id, name, arguments)
