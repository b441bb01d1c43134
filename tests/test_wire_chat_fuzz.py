"""Mutated bodies and streams: refused or read, and nothing else ever comes out."""

import json
import random
from collections.abc import Callable

import pytest

from moongate.core.errors import Refused, UpstreamProtocolError
from moongate.core.events import Sequence
from moongate.core.request import Request
from moongate.wire.chat import ChatCodec
from test_wire_chat_request import RICH
from wire_kit import call, delta, frames

CODEC = ChatCodec()
SEED = 20260127
ODD = [
    None, True, False, 0, -1, 1.5, 10**30, -(2**63) - 1, "", "x", "\0", "\u2028", "$web_search",
    [], {}, [[]], [None], {"type": "text"}, {"": ""}, {"url": 1}, "required", "json_schema",
    "tool", "assistant", [{"type": "text", "text": ""}], {"function": {"name": "f"}},
]  # fmt: skip
BYTES = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\x00", b"\xff", b"\\ud800", b"1e999",
         b"NaN", b"\xef\xbb\xbf", b"\n\n", b"\r", b"data: ", b"[DONE]", b"null"]  # fmt: skip


def mutated_tree(rng: random.Random, value: object) -> object:
    """``value`` with some inner value replaced, dropped, doubled or moved."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        out = dict(value)
        match rng.randrange(5):
            case 0:
                out[key] = rng.choice(ODD)
            case 1:
                del out[key]
            case 2:
                out[rng.choice(["x", "type", "content", "id"])] = rng.choice(ODD)
            case _:
                out[key] = mutated_tree(rng, out[key])
        return out
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        out = list(value)
        match rng.randrange(5):
            case 0:
                out[at] = rng.choice(ODD)
            case 1:
                del out[at]
            case 2:
                out.insert(at, rng.choice(out))
            case _:
                out[at] = mutated_tree(rng, out[at])
        return out
    return rng.choice(ODD)


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """``data`` with a few bytes cut out, doubled or put in."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randrange(1, 12))
        match rng.randrange(4):
            case 0:
                data = data[:at] + data[end:]
            case 1:
                data = data[:end] + data[at:]
            case 2:
                data = data[:at] + rng.choice(BYTES) + data[at:]
            case _:
                data = data[:at]
    return data


def read_or_refuse(body: bytes) -> bool:
    """True when read; then it must be writable and come back the same."""
    try:
        request = CODEC.read_request(body)
    except Refused as error:
        refused = error
    else:
        return check_round_trip(request)
    assert 400 <= refused.status < 500
    assert len(refused.message) < 200
    assert refused.param is None or refused.param.isascii()
    return False


def check_round_trip(request: Request) -> bool:
    written = json.dumps(CODEC.write_request(request)).encode()
    if all(message.role != "developer" for message in request.messages):
        assert CODEC.read_request(written) == request
    return True


def fuzz_bodies(cases: int) -> int:
    rng = random.Random(SEED)
    text = json.dumps(RICH).encode()
    taken = 0
    for _ in range(cases):
        if rng.random() < 0.5:
            tree: object = RICH
            for _ in range(rng.randint(1, 3)):
                tree = mutated_tree(rng, tree)
            body = json.dumps(tree).encode()
        else:
            body = mutated_bytes(rng, text)
        taken += read_or_refuse(body)
    return taken


FIRST = call("f", "", index=0, id="a", type="function")
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
CHUNKS = [
    delta(role="assistant", content=""),
    delta(reasoning_content="Hm"),
    delta(content="Io"),
    delta(tool_calls=[FIRST, call("g", "{", index=1, id="b")]),
    delta(tool_calls=[call(None, "}", index=1)]) | {"usage": USAGE},
    delta(1, content="x"),
    delta(1, "length"),
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls", "usage": USAGE}]},
    {"choices": [], "usage": USAGE},
]


def fuzz_streams(cases: int) -> int:
    rng = random.Random(SEED)
    whole = 0
    for _ in range(cases):
        chunks: object = CHUNKS
        for _ in range(rng.randint(0, 2)):
            chunks = mutated_tree(rng, chunks)
        sent = frames(*(chunks if isinstance(chunks, list) else [chunks]), "[DONE]")
        if rng.random() < 0.4:
            sent = mutated_bytes(rng, sent)
        reader = CODEC.reader()
        order = Sequence()
        events = reader.open()
        try:
            at = 0
            while at < len(sent):
                step = rng.randrange(1, 400)
                events += reader.feed(sent[at : at + step])
                at += step
            events += reader.close()
            whole += 1
        except UpstreamProtocolError:
            pass  # the one way for a stream to be wrong
        for event in events:
            order.step(event)
    return whole


@pytest.mark.parametrize(("fuzz", "cases"), [(fuzz_bodies, 4_000), (fuzz_streams, 4_000)])
def test_mutations_are_refused_or_read(fuzz: Callable[[int], int], cases: int):
    assert cases * 0.05 < fuzz(cases) < cases * 0.95


@pytest.mark.full
@pytest.mark.parametrize(("fuzz", "cases"), [(fuzz_bodies, 1_000_000), (fuzz_streams, 200_000)])
def test_very_many_mutations_are_refused_or_read(fuzz: Callable[[int], int], cases: int):
    assert cases * 0.05 < fuzz(cases) < cases * 0.95
