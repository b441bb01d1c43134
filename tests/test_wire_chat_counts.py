"""Token counts, wherever a server of the family puts them in its stream."""

import pytest

from moongate.core.events import Event, Used
from moongate.core.money import Counts
from moongate.wire.chat import ChatCodec
from wire_kit import delta, frames

END = delta(finish="stop")


def read(*payloads: object) -> list[Event]:
    """The events of a whole stream."""
    reader = ChatCodec().reader()
    return reader.open() + reader.feed(frames(*payloads, "[DONE]")) + reader.close()


def used(*payloads: object) -> Counts | None:
    """The counts of the last ``Used``."""
    found = [event for event in read(*payloads) if isinstance(event, Used)]
    assert not found or found[-1].final
    return found[-1].counts if found else None


USAGE = {"prompt_tokens": 100, "completion_tokens": 20}


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({}, Counts(100, 20)),
        ({"cached_tokens": 64}, Counts(100, 20, 64)),
        ({"prompt_tokens_details": {"cached_tokens": 64}}, Counts(100, 20, 64)),
        (
            {"cached_tokens": 64, "prompt_tokens_details": {"cached_tokens": 64}},
            Counts(100, 20, 64),
        ),
        ({"cached_tokens": 0, "prompt_tokens_details": {"cached_tokens": 64}}, Counts(100, 20, 64)),
        ({"cached_tokens": 0}, Counts(100, 20, 0)),
        ({"prompt_tokens_details": None}, Counts(100, 20)),
        ({"completion_tokens_details": {"reasoning_tokens": 5}}, Counts(100, 20, None, 5)),
        # Contradictions are said as they were said; the meter judges them.
        ({"completion_tokens_details": {"reasoning_tokens": 21}}, Counts(100, 20, None, 21)),
        ({"cached_tokens": 101}, Counts(100, 20, 101)),
        ({"cached_tokens": -1}, Counts(100, 20)),
        ({"cached_tokens": True}, Counts(100, 20)),
        ({"cached_tokens": 1.0}, Counts(100, 20)),
        ({"prompt_tokens": -100}, Counts(None, 20)),
        ({"prompt_tokens": 100.0}, Counts(None, 20)),
        ({"completion_tokens": True}, Counts(100, None)),
        ({"completion_tokens": 10**30}, Counts(100, None)),
        ({"completion_tokens": "20"}, Counts(100, None)),
    ],
)
def test_counts_wherever_they_stand(fields, counts):
    usage = USAGE | fields
    inside = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]}
    assert used(inside) == counts
    assert used(END, {"choices": [], "usage": usage}) == counts
    assert used(END | {"usage": usage}) == counts
    assert used(inside, {"choices": [], "usage": usage}) == counts


def test_counts_from_two_places_fill_each_other():
    cached = {
        "choices": [{"delta": {}, "finish_reason": "stop", "usage": USAGE | {"cached_tokens": 64}}]
    }
    assert used(cached, {"choices": [], "usage": USAGE}) == Counts(100, 20, 64)
    assert used(delta(content="x"), END, {"usage": [], "choices": []}) is None


def test_counts_of_a_llama_server():
    timings = {"cache_n": 90, "prompt_n": 10, "predicted_n": 20, "predicted_ms": 1.5}
    assert used(END, {"choices": [], "usage": USAGE, "timings": timings}) == Counts(100, 20, 90)
    assert used(END | {"timings": timings}) == Counts(100, 20, 90)


def test_running_counts_are_not_final():
    running = [
        delta(content="x") | {"usage": {"prompt_tokens": 9, "completion_tokens": n}} for n in (1, 2)
    ]
    events = read(*running, END, {"choices": [], "usage": {"prompt_tokens": 9, "cached_tokens": 4}})
    assert [event for event in events if isinstance(event, Used)] == [
        Used(Counts(9, 1), final=False),
        Used(Counts(9, 2), final=False),
        Used(Counts(9, None, 4), final=True),
    ]
