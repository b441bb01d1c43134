"""Reasoning that clients drop is put back: the right one, for a while, within bounds."""

import asyncio
import json
import threading
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from moongate.core.events import Finished, Text, Thinking, ToolArgs, ToolCall
from moongate.core.ports import Ask, ManualClock
from moongate.core.request import Call, ImagePart, Message, TextPart, Tool
from moongate.upstream import replay
from moongate.upstream.kimi_rules import complaints
from moongate.upstream.quirks import QUIRKS, shape
from moongate.upstream.replay import HEADER, Replay, tell
from moongate.wire.chat import ChatCodec
from upstream_kit import an_ask

USER = Message("user", "How is the weather?")
TOOLS = (Tool("look", parameters={"type": "object"}),)


def asks(*calls: Call, thinking: str | None = None, content: str | None = "") -> Message:
    return Message("assistant", content, thinking=thinking, tool_calls=calls)


def look(city: str = "Oslo", id: str = "functions.look:0") -> Call:
    return Call(id, "look", json.dumps({"city": city}, separators=(",", ":")))


def result(text: str = "4°C", id: str = "functions.look:0") -> Message:
    return Message("tool", text, tool_call_id=id)


def ask_of(*messages: Message, tenant: str = "tenant-a", **fields: Any) -> Ask:
    return msgspec.structs.replace(an_ask(*messages, tools=TOOLS, **fields), tenant=tenant)


def answered(memory: Replay, ask: Ask, thinking: str, *calls: Call) -> None:
    """An answer passes that thinks and calls."""
    watch = memory.watch(ask)
    assert watch is not None
    for at, call in enumerate(calls):
        half = len(call.arguments) // 2
        watch.see([Thinking(thinking[:3]), Thinking(thinking[3:])] if at == 0 else [])
        watch.see([ToolCall(at, call.id, call.name), ToolArgs(at, call.arguments[:half])])
        watch.see([ToolArgs(at, call.arguments[half:])])
    watch.see([Finished("tool_calls")])
    asyncio.run(watch.end())


def mend(memory: Replay, ask: Ask, *, kept: bool = True) -> Ask:
    request, repaired = asyncio.run(memory.mend(ask.tenant, ask.request, kept=kept))
    return msgspec.structs.replace(ask, request=request, repaired=repaired)


def thoughts(ask: Ask) -> list[str | None]:
    return [message.thinking for message in ask.request.messages if message.tool_calls]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(clock: ManualClock) -> Replay:
    memory = Replay(clock)
    answered(memory, ask_of(USER), "I must look.", look())
    return memory


def test_dropped_reasoning_is_restored_and_named(memory: Replay) -> None:
    mended = mend(memory, ask_of(USER, asks(look()), result()))
    assert thoughts(mended) == ["I must look."]
    assert mended.repaired == (1,)
    headers: dict[str, str] = {}
    tell(headers, mended, "moonshot")
    assert headers == {HEADER: "messages[1].reasoning_content"}


@pytest.mark.parametrize("kind", sorted(QUIRKS))
def test_the_repaired_message_is_this(memory: Replay, kind: Any) -> None:
    mended = mend(memory, ask_of(USER, asks(look("Rome", "x")), result(id="x")))
    body = shape(ChatCodec().write_request(mended.request), mended, kind)
    reasoning = {"reasoning_content": ""} | ({"reasoning": ""} if kind == "vllm" else {})
    assert body["messages"][1] == {
        "role": "assistant",
        "content": "",
        **reasoning,
        "tool_calls": [
            {
                "id": "functions.look:0",
                "type": "function",
                "function": {"name": "look", "arguments": '{"city":"Rome"}'},
            }
        ],
    }
    assert kind != "moonshot" or complaints(body) == []


@pytest.mark.parametrize("kind", sorted(QUIRKS))
def test_another_model_is_sent_what_the_client_sent(memory: Replay, kind: Any) -> None:
    loop = (asks(look(id="a")), result(id="a"), asks(look("Rome", "b"), thinking="mine"))
    ask = ask_of(USER, *loop, result(id="b"), family="other")
    body = shape(ChatCodec().write_request(ask.request), ask, kind)
    calls = [m["tool_calls"][0]["id"] for m in body["messages"] if "tool_calls" in m]
    assert (
        calls == ["a", "b"] == [m["tool_call_id"] for m in body["messages"] if "tool_call_id" in m]
    )
    assert "reasoning_content" not in body["messages"][1]
    assert body["messages"][3]["reasoning_content"] == "mine"
    assert memory.watch(ask) is None


def test_an_engine_that_reads_no_messages_was_sent_no_repair(memory: Replay) -> None:
    mended = mend(memory, ask_of(USER, asks(look()), result()))
    headers = {HEADER: "of the attempt before"}
    tell(headers, mended, "embedded")
    assert headers == {}


def test_what_is_long_is_hashed_beside_the_loop_and_piece_by_piece(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, threads = Replay(clock), []
    hashed = memory._keys

    def keys(*args: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return hashed(*args)

    monkeypatch.setattr(memory, "_keys", keys)
    for size in (1000, 20_000_000):
        picture = ImagePart("data:image/png;base64," + "A" * size)
        user = Message("user", (TextPart("What is it?"), picture))
        call = look("Oslo" * (size // 8))
        answered(memory, ask_of(user), "I must look.", call)
        assert thoughts(mend(memory, ask_of(user, asks(call), result()))) == ["I must look."]
    assert threads == [True, True, False, False]
    digest = Mock()
    replay._take_essence(digest, user)
    assert 0 < max(len(fed.args[0]) for fed in digest.update.mock_calls) <= 262_144


@pytest.mark.parametrize(
    "message",
    [
        asks(look(id="call_1"), content=None),  # ids made anew, null for empty
        asks(Call("x", "look", '{ "city": "Oslo" }')),  # arguments written anew
        asks(look(), content="Let me look."),
    ],
)
def test_what_clients_rewrite_does_not_hide_it(memory: Replay, message: Message) -> None:
    found = mend(memory, ask_of(USER, message, result(id=message.tool_calls[0].id)))
    assert thoughts(found) == ["I must look."]


@pytest.mark.parametrize(
    "ask",
    [
        ask_of(USER, asks(look()), result(), tenant="tenant-b"),
        ask_of(Message("user", "Another question"), asks(look()), result()),
        ask_of(Message("system", "Be brief."), USER, asks(look()), result()),
        ask_of(USER, asks(look("Rome")), result()),
        ask_of(USER, asks(Call("functions.look:0", "find", '{"city":"Oslo"}')), result()),
        ask_of(
            USER, asks(look(), look(id="functions.look:1")), result(), result(id="functions.look:1")
        ),
        ask_of(
            Message("user", (TextPart("How is"), TextPart(" the weather?"))), asks(look()), result()
        ),
    ],
)
def test_no_conversation_gets_anothers_reasoning(memory: Replay, ask: Ask) -> None:
    mended = mend(memory, ask)
    assert thoughts(mended) == [""]
    assert mended.repaired


def test_equal_ids_in_two_conversations_stay_apart(memory: Replay) -> None:
    other = Message("user", "And tomorrow?")
    answered(memory, ask_of(other), "Another thought.", look())
    assert thoughts(mend(memory, ask_of(USER, asks(look()), result()))) == ["I must look."]
    assert thoughts(mend(memory, ask_of(other, asks(look()), result()))) == ["Another thought."]


def test_only_the_current_loop_is_repaired_and_only_what_is_missing(memory: Replay) -> None:
    old = (USER, asks(look()), result(), Message("assistant", "4°C."))
    loop = (asks(look(), thinking=""), result(), asks(look(), thinking="mine"), result())
    done = ask_of(*old, USER, *loop)
    assert asyncio.run(memory.mend("tenant-a", done.request)) == (done.request, ())
    open_loop = ask_of(*old, USER, *loop, asks(look("Rome")), result())
    mended = mend(memory, open_loop)
    assert thoughts(mended) == [None, "", "mine", ""]
    assert mended.repaired == (9,)
    prefix = ask_of(USER, asks(look()), result(), Message("assistant", "It", partial=True))
    assert thoughts(mend(memory, prefix)) == ["I must look."]
    instant = ask_of(USER, asks(look()), result(), thinking=False)
    assert asyncio.run(memory.mend("tenant-a", instant.request))[0] is instant.request


def test_what_may_not_be_kept_is_not_looked_up_either(memory: Replay) -> None:
    mended = mend(memory, ask_of(USER, asks(look()), result()), kept=False)
    assert (thoughts(mended), mended.repaired) == ([""], (1,))


def test_several_rounds_keep_the_beginning_of_the_body(memory: Replay) -> None:
    """A prompt cache keeps its prefix, whatever the client dropped."""
    messages: list[Message] = [USER]
    before = b""
    for at in range(4):
        call = look(f"city {at}", f"functions.look:{at}") if at else look()
        if at:
            answered(memory, ask_of(*messages), f"Thought {at}.", call)
        messages += [asks(call), result(id=call.id)]
        mended = mend(memory, ask_of(*messages))
        body = shape(ChatCodec().write_request(mended.request), mended, "moonshot")
        encoded = json.dumps(body["messages"]).encode()
        assert encoded.startswith(before)
        before = encoded[:-1]
        assert thoughts(mended) == ["I must look.", *(f"Thought {i}." for i in range(1, at + 1))]


def test_it_is_forgotten_half_an_hour_after_its_last_use(
    memory: Replay, clock: ManualClock
) -> None:
    again = ask_of(USER, asks(look()), result())
    for _ in range(3):
        clock.advance(replay.KEPT_S - 1)
        assert thoughts(mend(memory, again)) == ["I must look."]
    clock.advance(replay.KEPT_S - 1)
    memory.sweep()
    assert "1 entries, 12 bytes" in repr(memory)
    clock.advance(replay.SWEEP_S)
    memory.sweep()
    assert repr(memory) == "Replay(0 entries, 0 bytes)"
    assert replay.KEPT_S + replay.SWEEP_S <= 30 * 60
    assert thoughts(mend(memory, again)) == [""]


def test_each_organisation_and_all_together_are_bounded(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    monkeypatch.setattr(replay, "TENANT_ENTRIES_MAX", 3)
    monkeypatch.setattr(replay, "TENANT_BYTES_MAX", 100)
    monkeypatch.setattr(replay, "ENTRIES_MAX", 5)
    monkeypatch.setattr(replay, "BYTES_MAX", 150)
    memory = Replay(clock)

    def put(tenant: str, city: str, size: int) -> None:
        answered(memory, ask_of(USER, tenant=tenant), "x" * size, look(city))

    def known(tenant: str, *cities: str) -> list[bool]:
        asked = [ask_of(USER, asks(look(c)), result(), tenant=tenant) for c in cities]
        return [thoughts(mend(memory, ask)) != [""] for ask in asked]

    for city in "abc":
        put("one", city, 10)
    assert known("one", "a") == [True]  # used, so that b is the oldest
    put("one", "d", 10)
    assert known("one", "a", "b", "c", "d") == [True, False, True, True]
    put("one", "e", 75)
    assert known("one", "a", "c", "d", "e") == [False, True, True, True]
    put("one", "f", 101)
    assert known("one", "f", "e") == [False, True]
    put("two", "a", 60)
    put("three", "a", 10)
    assert known("one", "c", "d", "e") == [False, False, True]
    put("four", "a", 10)
    assert known("one", "e") + known("two", "a") + known("three", "a") == [True, False, True]
    for tenant in "abcdef":
        put(tenant, "a", 1)
    assert repr(memory) == "Replay(5 entries, 5 bytes)"


def test_what_calls_nothing_or_thinks_nothing_is_not_kept(clock: ManualClock) -> None:
    memory = Replay(clock)
    assert memory.watch(ask_of(USER, thinking=False)) is None
    assert memory.watch(an_ask(USER)) is None
    for events in (
        [Thinking("Hm."), Text("4°C"), Finished("stop")],
        [ToolCall(0, "x", "look"), ToolArgs(0, "{}"), Finished("tool_calls")],
        [Thinking("Hm."), ToolCall(0, "x", "look"), ToolArgs(0, "{")],
    ):
        watch = memory.watch(ask_of(USER))
        assert watch is not None
        watch.see(events)
        asyncio.run(watch.end())
    assert repr(memory) == "Replay(0 entries, 0 bytes)"


def test_the_header_stays_short() -> None:
    headers: dict[str, str] = {}
    messages = [USER]
    for at in range(500):
        messages += [asks(look(id=f"i{at}")), result(id=f"i{at}")]
    tell(headers, mend(Replay(ManualClock()), ask_of(*messages)), "vllm")
    named = headers[HEADER].split(",")
    assert named[0] == "messages[1].reasoning_content"
    assert (len(named), named[-1]) == (65, "+436")
    assert len(headers[HEADER]) < 4_096


def test_no_repr_tells_content(memory: Replay) -> None:
    watch = memory.watch(ask_of(USER))
    assert watch is not None
    watch.see([Thinking("canary")])
    told = repr((memory, watch, *memory._entries.values()))
    assert "canary" not in told
    assert "must look" not in told
