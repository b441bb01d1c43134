"""The interface as an OpenAPI 3.1 document, made from the route table and the error table."""

from typing import Any, Final

from moongate import __version__
from moongate.core.errors import CODES
from moongate.web.routes import ROUTES, Route

_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_COUNT: Final = {"type": "integer", "minimum": 0}

_PART: Final = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "image_url", "video_url"]},
        "text": _STRING,
        "image_url": {"description": "A data URL, as a string or {url}."},
        "video_url": {"description": "A data URL, as a string or {url}."},
    },
}
_MESSAGE: Final = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant", "tool", "developer"]},
        "content": {"anyOf": [_STRING, {"type": "null"}, {"type": "array", "items": _PART}]},
        "name": _STRING,
        "reasoning_content": {"type": ["string", "null"]},
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
        "tool_call_id": _STRING,
        "partial": {
            "type": "boolean",
            "description": "On a last assistant message: continue it.",
        },
    },
}
_REQUEST: Final = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": _STRING,
        "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "max_tokens": {"type": "integer", "minimum": 1, "deprecated": True},
        "thinking": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["enabled", "disabled"]}},
        },
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1},
        "n": {"type": "integer", "minimum": 1},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "stop": {"anyOf": [_STRING, {"type": "array", "maxItems": 5, "items": _STRING}]},
        "stream": {"type": "boolean", "default": False},
        "stream_options": {
            "type": "object",
            "properties": {"include_usage": {"type": "boolean"}},
        },
        "response_format": {
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "json_schema": {"type": "object"},
            },
        },
        "tools": {"type": "array", "maxItems": 128, "items": {"type": "object"}},
        "tool_choice": {"description": "auto, none, required, or a named function."},
        "prompt_cache_key": _STRING,
        "web_search_options": {
            "type": "object",
            "properties": {"search_context_size": {"enum": ["low", "medium", "high"]}},
        },
    },
}
_USAGE: Final = {
    "type": "object",
    "properties": {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "cached_tokens": _COUNT,
        "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": _COUNT}},
        "completion_tokens_details": {
            "type": "object",
            "properties": {"reasoning_tokens": _COUNT},
        },
        "saved_nanos": {"type": "integer", "description": "What the cache saved, nano-dollars."},
        "saved_usd": {"type": "string", "description": "The same in dollars."},
        "searches": {**_COUNT, "description": "Searches of the web that were carried out."},
        "search_errors": {
            "type": "array",
            "items": {
                "enum": [
                    "timeout",
                    "unavailable",
                    "malformed",
                    "refused",
                    "empty",
                    "limit",
                    "no_query",
                ]
            },
            "description": "A word for each search that brought nothing.",
        },
        "cost": {"type": "number", "description": "USD; the exact figure is cost_nanos."},
        "cost_nanos": {"type": "integer", "description": "Nano-dollars (10^-9 USD), exact."},
        "attempts": {"type": "integer", "description": "Answers made, where more than one was."},
    },
}
_ANSWER: Final = {
    "type": "object",
    "properties": {
        "id": _STRING,
        "object": {"const": "chat.completion"},
        "created": _INTEGER,
        "model": _STRING,
        "system_fingerprint": _STRING,
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"$ref": "#/components/schemas/Usage"},
        "hint": {"type": "string", "description": "Why there is no content, where there is none."},
    },
}
_UPLOAD: Final = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {"enum": ["image", "video", "file-extract"]},
    },
}
_SEARCH: Final = {
    "type": "object",
    "required": ["query"],
    "properties": {
        "query": {"type": "string", "minLength": 1, "maxLength": 400},
        "max_results": {"type": "integer", "minimum": 1, "maximum": 20},
        "pages": {"type": "boolean", "description": "Whether the pages found are read."},
        "model": {"type": "string", "description": "Whose price holds."},
    },
    "additionalProperties": False,
}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _STRING,
                "type": _STRING,
                "param": {"type": ["string", "null"]},
                "code": {"enum": sorted(CODES)},
            },
        }
    },
}

_FIELDS: Final = {"topup": "usd", "join": "code", "tavily_search": "query"}
"""The one field of a small request's body, by handler."""
_KINDS: Final = {
    "index": "text/plain",
    "metrics": "text/plain",
    "join_page": "text/html",
    "invoice": "text/html",
}


def _reference(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _operation(route: Route) -> dict[str, Any]:
    """One operation: its credential, body, answers and policies."""
    kind = _KINDS.get(route.handler, "application/json")
    ok: dict[str, Any] = {"description": "Done", "content": {kind: {}}}
    operation: dict[str, Any] = {
        "operationId": f"{route.handler}_{route.method.lower()}",
        "summary": route.summary,
        "responses": {
            "200": ok,
            "default": {
                "description": "An error",
                "content": {"application/json": _reference("Error")},
            },
        },
        "x-moongate-policy": {
            "auth": route.auth,
            "money": route.money,
            "limit": route.limit,
            "keeps": route.keeps,
        },
    }
    if route.auth in {"key", "admin"}:
        operation["security"] = [{"bearer": []}]
    if route.prefix is not None:
        operation["parameters"] = [
            {"name": route.parameter, "in": "path", "required": True, "schema": _STRING}
        ]
    if route.handler in {"chat", "estimate"}:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": _reference("ChatRequest")},
        }
    if route.handler == "chat":
        ok["content"] = {
            "application/json": _reference("ChatAnswer"),
            "text/event-stream": {"schema": _STRING},
        }
    elif route.handler == "upload":
        body = {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD}}}
        operation["requestBody"] = body
    elif route.handler == "search":
        body = {"required": True, "content": {"application/json": {"schema": _SEARCH}}}
        operation["requestBody"] = body
    elif route.handler in _FIELDS:
        name = _FIELDS[route.handler]
        schema = {"type": "object", "required": [name], "properties": {name: _STRING}}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["requestBody"] = body
    return operation


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Moongate",
            "version": __version__,
            "summary": "Your own Kimi K2.5 API",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "ChatRequest": _REQUEST,
                "ChatAnswer": _ANSWER,
                "Usage": _USAGE,
                "Error": _ERROR,
            },
        },
    }
