"""No turn of a conversation moves the prompt of the turn before: what a prompt cache lives on.

Conversations are led by clients of several habits through the gateway to each kind of upstream, and
the bytes that were sent there are compared. One exception is by design: Kimi's template leaves out
reasoning from before the assistant's last plain answer, so what was put back for a client that
drops it is not sent any longer from there on.
"""

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from moongate.upstream import pieces
from moongate.upstream.quirks import QUIRKS
from moongate.upstream.scripted import ScriptedServer
from picture_kit import png, url
from serving_kit import ONE_UPSTREAM, Served, serve

Body = dict[str, Any]
REASONING = ("reasoning_content", "reasoning")


class Sent(msgspec.Struct):
    """What matters to a prompt cache of a body, as bytes."""

    messages: list[msgspec.Raw]
    tools: msgspec.Raw = msgspec.Raw()
    cache_salt: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()


class Story(msgspec.Struct):
    """A conversation: how it begins, what upstream says, and what the user says to plain answers.

    ``more``: fields of the request by turn; the last ones repeat. ``habit``: what the client makes
    of the assistant's message before it sends it back.
    """

    begin: list[Body]
    script: str
    replies: list[str]
    tools: list[Body] | None = None
    more: tuple[Body, ...] = ({},)
    habit: Callable[[Body], Body] = lambda message: message
    partial: bool = False


def plain(message: Body) -> Body:
    """Drops reasoning, as many frameworks do."""
    return {name: value for name, value in message.items() if name != "reasoning_content"}


def renamed(message: Body) -> Body:
    """Gives calls ids of its own, and parses their arguments and writes them anew."""
    made = copy.deepcopy(plain(message))
    for at, call in enumerate(made.get("tool_calls", ())):
        call["id"] = f"call_{at}"  # the same ones in every round
        function = call["function"]
        function["arguments"] = json.dumps(json.loads(function["arguments"]), sort_keys=True)
    return made


TOOLS: list[Body] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks ☾.",
            "parameters": {
                "type": "object",
                "properties": {
                    "z": {"type": "number", "maximum": 1e3, "minimum": -0.5},
                    "path": {"type": "string", "maxLength": 1e2},
                    "a": {"type": "integer", "maximum": 12345678901234567999},
                },
                "required": ["path"],
            },
        },
    }
    for name in ("search", "read_file")
]
LOOP = r"""
think I shall look for two things.
tool search {"path": "ü",  "z":1.0, "a": 1e2}
tool read_file {"z":-0.0,"path":"b"}
---
think One more.
text Let me see.
tool search {"path":"\u00fc\/x","a":12345678901234567890}
---
think That is all.
text There are "three".
---
think Again.
tool read_file {"path":"b"}
---
text Done.
---
text Good bye.
"""
SYSTEM = {"role": "system", "content": "You read code. ☾"}
USER = {"role": "user", "content": "What is in it?"}
PICTURES = [
    {"type": "image_url", "image_url": {"url": url(png(64, 64)), "detail": "low"}},
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": url(png(28, 28))},
]
SAID = "text one\n---\ntext {}\n---\ntext three\n---\ntext four"
STORIES = {
    "an agent that sends back what it was sent": Story(
        [SYSTEM, USER], LOOP, ["And?", "Bye"], TOOLS
    ),
    "an agent that drops reasoning": Story(
        [SYSTEM, USER], LOOP, ["And?", "Bye"], TOOLS, habit=plain
    ),
    "an agent with ids of its own": Story([USER], LOOP, ["And?", "Bye"], TOOLS, habit=renamed),
    "tools that may be called or not": Story(
        [{"role": "developer", "content": "Help."}, USER],
        LOOP,
        ["And?", "Bye"],
        TOOLS,
        ({}, {"tool_choice": "auto"}, {"tool_choice": "none", "max_completion_tokens": 900}, {}),
    ),
    "pictures": Story([SYSTEM, {"role": "user", "content": PICTURES}], SAID, ["a", "b", "c"]),
    "JSON now and then": Story(
        [SYSTEM, USER],
        SAID,
        ["As JSON {}", "b", "c"],
        more=(
            {},
            {"response_format": {"type": "json_object"}, "prompt_cache_key": "s"},
            {"prompt_cache_key": "s", "user": "x", "stream": True},
        ),
    ),
    "thinking off": Story(
        [SYSTEM, USER], SAID, ["a", "b"], more=({"thinking": {"type": "disabled"}},)
    ),
    "a prefix that is continued": Story([SYSTEM, USER], SAID, ["a", "b"], partial=True),
}


def message_of(text: str) -> Body:
    """The assistant's message of an answer, streamed or whole."""
    if not text.startswith("data:"):
        message: Body = json.loads(text)["choices"][0]["message"]
        return message
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    return {"role": "assistant", "content": "".join(d.get("content") or "" for d in deltas)}


async def lead(served: Served, story: Story) -> None:
    """Lead the conversation to its end."""
    messages = copy.deepcopy(story.begin)
    replies = list(story.replies)
    for turn in range(story.script.count("---") + 1):
        more = story.more[min(turn, len(story.more) - 1)]
        body = {"model": "kimi-k2.5", "messages": messages, **more}
        if story.tools:
            body["tools"] = story.tools
        begun = "Well, " if story.partial and turn == 1 else ""
        if begun:
            ahead = {"role": "assistant", "content": begun, "partial": True}
            body = body | {"messages": [*messages, ahead]}
        reply = await served.post(body)
        text = await reply.text()
        assert reply.status == 200, text
        message = story.habit(message_of(text))
        message["content"] = begun + (message.get("content") or "")
        messages = [*messages, message]
        for at, call in enumerate(message.get("tool_calls", ())):
            said = {"role": "tool", "tool_call_id": call["id"], "content": f"result {turn}.{at}"}
            messages.append(said)
        if not message.get("tool_calls"):
            if not replies:
                return
            messages.append({"role": "user", "content": replies.pop(0)})


def history(messages: list[msgspec.Raw]) -> list[Body]:
    """Decoded, without a prefix that is to be continued."""
    found: list[Body] = [msgspec.json.decode(message) for message in messages]
    return found


def last_plain(messages: list[Body]) -> int:
    """Where the assistant last answered without calling, or -1."""
    said = [
        at
        for at, message in enumerate(messages)
        if message["role"] == "assistant" and not message.get("tool_calls")
    ]
    return max(said, default=-1)


def stripped(raw: msgspec.Raw) -> bytes:
    message = msgspec.json.decode(raw)
    return msgspec.json.encode({n: v for n, v in message.items() if n not in REASONING})


def check(before: Sent, after: Sent, *, forgets: bool, was_partial: bool) -> None:
    """What ``before`` sent is how ``after`` begins, byte for byte."""
    kept = len(before.messages) - was_partial
    assert len(after.messages) > kept
    plain_at = last_plain(history(after.messages)) if forgets else -1
    for at in range(kept):
        one, other = before.messages[at], after.messages[at]
        if at <= plain_at:  # the template shows no reasoning of these any longer
            assert stripped(one) == stripped(other)
        else:
            assert bytes(one) == bytes(other)
    assert bytes(before.tools) == bytes(after.tools)
    assert before.cache_salt == after.cache_salt


@pytest.mark.parametrize("kind", QUIRKS)
@pytest.mark.parametrize("name", STORIES)
async def test_each_turn_begins_with_what_the_one_before_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, name: str
) -> None:
    story = STORIES[name]
    bodies: list[bytes] = []
    write = pieces.gathered

    async def gathered(body: Body, ahead: Any = None) -> list[bytes]:
        found = await write(body, ahead)
        bodies.append(b"".join(found))
        return found

    if story.partial and QUIRKS[kind].partial == "refused":
        story = msgspec.structs.replace(story, partial=False)
    monkeypatch.setattr(pieces, "gathered", gathered)
    async with (
        ScriptedServer(story.script) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind=kind, base_url=scripted.base_url)) as served,
    ):
        await lead(served, story)
        assert scripted.violations == [] or kind != "moonshot"
    assert len(bodies) == story.script.count("---") + 1 or len(bodies) == len(story.replies) + 1
    sent = [msgspec.json.decode(body, type=Sent) for body in bodies]
    forgets = story.habit in (plain, renamed)
    for turn, (before, after) in enumerate(itertools.pairwise(sent)):
        was_partial = story.partial and turn == 1
        check(before, after, forgets=forgets, was_partial=was_partial)
        partial = was_partial or (story.partial and turn == 0)
        if not partial:
            assert bytes(before.chat_template_kwargs) == bytes(after.chat_template_kwargs)
    keys = {one.prompt_cache_key for one in sent if one.prompt_cache_key is not None}
    assert len(keys) <= 1
    check_what_was_said(sent, name)


def check_what_was_said(sent: list[Sent], name: str) -> None:
    """An answer goes back as it was written, so that its tokens are the ones that are cached."""
    if not name.startswith("an agent that"):
        return
    first = history(sent[1].messages)[-3]
    (one, other) = first["tool_calls"]
    assert one["function"]["arguments"] == '{"path": "ü",  "z":1.0, "a": 1e2}'
    assert other["function"]["arguments"] == '{"z":-0.0,"path":"b"}'
    last = history(sent[2].messages)[-2]["tool_calls"][0]
    assert last["function"]["arguments"] == r'{"path":"\u00fc\/x","a":12345678901234567890}'
    assert [call["id"] for call in (one, other, last)] == [
        "functions.search:0", "functions.read_file:1", "functions.search:2",
    ]  # fmt: skip
    assert first["reasoning_content"] == "I shall look for two things."
    assert b'"z":{"type":"number","maximum":1000.0,"minimum":-0.5}' in bytes(sent[0].tools)
