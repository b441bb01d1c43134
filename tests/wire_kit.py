"""A checker of chat streams that shares nothing with our reader or writer, and sample values.

``check_stream`` holds a client's stream against the grammar that we promise and folds it the way
an SDK does; it reads with the standard library only, so that a mistake in ``wire`` shows.
"""

import json
import re
from typing import Any

from hypothesis import strategies as st

from moongate.core.money import Bill, Usage
from moongate.core.ports import Head
from moongate.core.request import (
    Call,
    Format,
    ImagePart,
    Message,
    Request,
    Sampling,
    TextPart,
    Tool,
    ToolChoice,
    VideoPart,
)

HEAD = Head("chatcmpl-0123456789abcdef01234567", 1769472000, "kimi-k2.5", "fpv0_test")
USAGE_HEAD = Head(HEAD.id, HEAD.created_s, HEAD.model, HEAD.fingerprint, include_usage=True)
BILL = Bill(
    Usage(input=2_000, cache_read=8_000, output=500, reasoning=120),
    2_760_000,
    saved_nanos=3_040_000,
)
REASONS = {"stop", "length", "tool_calls", "content_filter"}


def check_stream(data: bytes, *, include_usage: bool) -> dict[str, Any]:
    """Assert the grammar of a complete client stream; return it folded.

    ``choices``: list of {index, content, reasoning_content, tool_calls, annotations,
    finish_reason}; ``usage``: the usage object of the finishing chunk; ``hint``: its hint.
    """
    text = data.decode()
    assert "\r" not in text
    frames = [frame for frame in text.split("\n\n") if not frame.startswith(":")]
    assert frames.pop() == "", "the stream ends with a blank line"
    assert frames.pop() == "data: [DONE]", "only [DONE] ends a complete stream"
    chunks = []
    for frame in frames:
        assert frame.startswith("data: "), "nothing but data fields and comments"
        assert "\n" not in frame, "one line an event"
        chunks.append(json.loads(frame[6:]))
    _check_heads(chunks, include_usage)
    choices: dict[int, dict[str, Any]] = {}
    usage = hint = None
    for chunk in chunks:
        if "hint" in chunk:
            assert chunk["choices"][0]["finish_reason"] == "length", "a hint is for a cut answer"
            hint = chunk["hint"]
        assert len(chunk["choices"]) <= 1
        for choice in chunk["choices"]:
            _fold(choices.setdefault(choice["index"], _empty(choice["index"])), choice)
            if "usage" in choice:
                assert choice["finish_reason"] is not None, "usage stands on the finishing chunk"
                usage = choice["usage"]
    assert usage is not None, "choices[0].usage is always there"
    if include_usage:
        assert chunks[-1]["usage"] == usage, "both places say the same"
    for choice in choices.values():
        assert choice["finish_reason"] in REASONS
        for call in choice["tool_calls"].values():
            assert set(call) == {"id", "type", "name", "arguments"}
    ordered = [choices[index] for index in sorted(choices)]
    return {"choices": ordered, "usage": usage, "hint": hint}


def _check_heads(chunks: list[dict[str, Any]], include_usage: bool) -> None:
    first = chunks[0]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    same = ("id", "object", "created", "model")
    for chunk in chunks:
        assert [chunk[key] for key in same] == [first[key] for key in same]
        assert chunk["object"] == "chat.completion.chunk"
    body = chunks[:-1] if include_usage else chunks
    assert all(chunk["choices"] for chunk in body), "no surprise chunk"
    assert all(chunk.get("usage", "absent") in (None, "absent") for chunk in body)
    assert all(("usage" in chunk) == include_usage for chunk in chunks)
    if include_usage:
        assert chunks[-1]["choices"] == []


def _empty(index: int) -> dict[str, Any]:
    return {
        "index": index,
        "content": "",
        "reasoning_content": None,
        "tool_calls": {},
        "annotations": [],
        "finish_reason": None,
    }


def _fold(into: dict[str, Any], choice: dict[str, Any]) -> None:
    assert into["finish_reason"] is None, "nothing follows a choice's finish"
    delta = dict(choice["delta"])
    delta.pop("role", None)
    into["content"] += delta.pop("content", "")
    if "reasoning_content" in delta:
        into["reasoning_content"] = (into["reasoning_content"] or "") + delta.pop(
            "reasoning_content"
        )
    for fragment in delta.pop("tool_calls", []):
        _fold_call(into["tool_calls"], fragment)
    into["annotations"] += delta.pop("annotations", [])
    assert not delta, "no field that we do not know"
    into["finish_reason"] = choice["finish_reason"]


def _fold_call(calls: dict[int, dict[str, str]], fragment: dict[str, Any]) -> None:
    index = fragment["index"]
    if index not in calls:
        assert set(fragment) == {"index", "id", "type", "function"}, "first fragment names its call"
        assert fragment["id"]
        assert fragment["function"]["name"]
        assert fragment["function"]["arguments"] == ""
        calls[index] = {"id": fragment["id"], "type": fragment["type"]} | fragment["function"]
    else:
        assert set(fragment) == {"index", "function"}, "id and name come once per index"
        assert set(fragment["function"]) == {"arguments"}
        calls[index]["arguments"] += fragment["function"]["arguments"]


def frames(*payloads: Any) -> bytes:
    """An upstream's stream: each payload a JSON value, or text that stands as it is."""
    texts = [part if isinstance(part, str) else json.dumps(part) for part in payloads]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def delta(choice: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One upstream chunk with one choice."""
    return {"choices": [{"index": choice, "delta": fields, "finish_reason": finish}]}


def call(name: str | None = None, arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    """One fragment of a tool call as an upstream sends it."""
    function = {"name": name, "arguments": arguments}
    return fields | {"function": {key: text for key, text in function.items() if text is not None}}


# Any request that can be read is one that these make.
texts = st.text(st.characters(codec="utf-8"), max_size=12)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2)
)
extras = st.dictionaries(st.sampled_from(["x_a", "seed", "refusal", "audio"]), values, max_size=2)
# No keyword of JSON Schema begins so: what a keyword may say is for the gate's own tests.
schemas = st.dictionaries(texts.map(lambda text: f"x-{text}"), values, max_size=3)


def _inner(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """``extra`` of a noun whose wire form has the inner object ``name``."""
    inner = st.just({}) | st.fixed_dictionaries({name: st.just({"x_in": 1})})
    return st.builds(lambda outer, held: outer | held, extras, inner)


parts = st.one_of(
    st.builds(TextPart, texts.filter(bool), extras),
    st.builds(ImagePart, words, st.just(False), _inner("image_url")),
    st.builds(ImagePart, words, st.just(True), extras),
    st.builds(VideoPart, words, st.just(False), _inner("video_url")),
)
contents = texts | st.lists(parts, min_size=1, max_size=3).map(tuple)
kinds = st.sampled_from(["function", "builtin_function"])
calls = st.builds(Call, words, words, texts, kinds, _inner("function"))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Messages in which every call is answered once."""
    messages: list[Message] = []
    names = st.none() | words
    for _ in range(draw(st.integers(1, 3))):
        role = draw(st.sampled_from(["system", "user"]))
        messages.append(Message(role, draw(contents), draw(names), extra=draw(extras)))
        if draw(st.booleans()):
            asked = tuple(draw(st.lists(calls, min_size=1, max_size=2)))
            content = draw(st.none() | texts)
            thinking = draw(st.none() | texts)
            messages.append(
                Message("assistant", content, None, thinking, asked, extra=draw(extras))
            )
            messages += [
                Message("tool", draw(contents), draw(names), tool_call_id=one.id) for one in asked
            ]
    if draw(st.booleans()):
        messages.append(Message("assistant", draw(texts), draw(names), partial=True))
    return tuple(messages)


_names = st.from_regex(re.compile(r"[a-zA-Z_][a-zA-Z0-9-_]{0,20}", re.ASCII), fullmatch=True)
tool_lists = st.lists(
    st.builds(
        Tool,
        _names,
        st.none() | texts,
        st.none() | schemas,
        st.none() | st.booleans(),
        st.just("function"),
        _inner("function"),
    ),
    max_size=3,
    unique_by=lambda tool: tool.name,
).map(tuple)
formats = st.one_of(
    st.none(),
    st.builds(Format, st.sampled_from(["text", "json_object"]), extra=extras),
    st.builds(
        Format,
        st.just("json_schema"),
        words,
        schemas,
        st.none() | st.booleans(),
        _inner("json_schema"),
    ),
)
samplings = st.builds(
    Sampling,
    st.none() | st.floats(0, 2),
    st.none() | st.floats(0, 1),
    st.none() | st.integers(1, 8),
    st.none() | st.floats(-2, 2),
    st.none() | st.floats(-2, 2),
    st.lists(words, max_size=5).map(tuple),
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request of the chat dialect."""
    tools = draw(tool_lists)
    choices = [None, ToolChoice("auto"), ToolChoice("none")]
    if tools:
        choices += [ToolChoice("required"), ToolChoice("named", tools[0].name)]
    return Request(
        model=draw(words),
        messages=draw(conversations()),
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        format=draw(formats),
        thinking=draw(st.sampled_from([None, True, False])),
        sampling=draw(samplings),
        output_tokens_max=draw(st.none() | st.integers(1, 2**31 - 1)),
        stream=draw(st.booleans()),
        include_usage=draw(st.booleans()),
        cache_key=draw(st.none() | texts),
        extra=draw(_inner("stream_options")),
    )
