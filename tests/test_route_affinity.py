"""Affinity: digests that hold no text, a bounded map, and one pure decision over both."""

import gc
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moongate.core.ports import ManualClock
from moongate.core.request import Call, ImagePart, Message, Request, TextPart, Tool
from moongate.route.affinity import LIFE_S, Affinity, Known
from moongate.route.choice import Limits, Place, State, choose, rendezvous
from moongate.route.loads import Loads
from moongate.route.prefix import BLOCK, LAST, Prefix, prefix

SECRET = b"s" * 32
NAMES = tuple(f"u{at}" for at in range(8))


def said(*texts: str, system: str = "Be brief.", **more: Any) -> Request:
    """A conversation whose turns alternate, user first."""
    turns = [Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts)]
    head = [Message("system", system)] if system else []
    return Request("kimi-k2.5", (*head, *turns), **more)


def of(request: Request, tenant: str = "a") -> Prefix:
    return prefix(SECRET, tenant, request)


def up(*names: str, **more: Any) -> list[Place]:
    return [Place(name, **more) for name in names or NAMES]


def test_the_next_turn_begins_with_the_whole_prompt_before_it() -> None:
    first, next_turn = of(said("Io?")), of(said("Io?", "A moon.", "Europa?"))
    assert first.digests == next_turn.digests[: len(first.digests)]
    assert first.sizes == next_turn.sizes[: len(first.sizes)]
    assert (first.root, first.anchor) == (next_turn.root, next_turn.anchor)
    assert first.size < next_turn.size


def test_one_document_under_two_questions_shares_its_blocks() -> None:
    document = "".join(f"Line {at} of a long text.\n" for at in range(40_000))
    one, two = of(said(document + "What is line 3?")), of(said(document + "Sum it up, please." * 9))
    shared = set(one.digests) & set(two.digests)
    assert max(s for d, s in zip(one.digests, one.sizes, strict=True) if d in shared) > (
        len(document) - BLOCK
    )
    assert one.anchor == two.anchor
    far = of(said(document + "tail " * 200_000))
    deepest = max(s for d, s in zip(far.digests, far.sizes, strict=True) if d in set(one.digests))
    assert deepest > len(document) // 2  # position decides what is kept, not the length


CHANGES = [
    said("Io?", system="Be long."),
    said("Io!"),
    said("Io?", tools=(Tool("look"),)),
    said("Io?", tools=(Tool("look", parameters={"type": "object"}),)),
    Request("kimi-k3", said("Io?").messages),
    Request("kimi-k2.5", (Message("system", "Be brief.Io?"),)),
    Request("kimi-k2.5", (Message("system", "Be brief."), Message("assistant", "Io?"))),
    Request("kimi-k2.5", (Message("system", "Be brief."), Message("user", "Io?", name="x"))),
    Request("kimi-k2.5", (Message("system", "Be brief."), Message("user", "Io?", thinking="x"))),
    Request(
        "kimi-k2.5",
        (Message("system", "Be brief."), Message("user", (ImagePart("data:,Io?"),))),
    ),
    Request(
        "kimi-k2.5",
        (
            Message("system", "Be brief."),
            Message("user", "Io?", tool_calls=(Call("c", "look", "{}"),)),
        ),
    ),
]


def test_whatever_differs_in_the_prompt_differs_in_the_digest() -> None:
    whole = [of(request).digests[-1] for request in (said("Io?"), *CHANGES)]
    assert len(set(whole)) == len(whole)
    system = Message("system", "Be brief.")
    parts = Request("kimi-k2.5", (system, Message("user", (TextPart("Io?"),))))
    assert of(parts).digests == of(said("Io?")).digests  # one part or none: the same prompt


def test_organisations_and_secrets_have_no_digest_in_common() -> None:
    request = said("Io?", "A moon.", "Europa?", cache_key="k")
    mine, theirs = of(request), of(request, "b")
    other = prefix(b"t" * 32, "a", request)
    assert mine.sizes == theirs.sizes
    assert not {*mine.digests, mine.key} & {*theirs.digests, theirs.key}
    assert not {*mine.digests, mine.key} & {*other.digests, other.key}


@given(st.lists(st.text(max_size=50), min_size=1, max_size=300))
def test_digests_are_bounded_and_a_longer_conversation_keeps_what_is_remembered(
    texts: list[str],
) -> None:
    one, two = of(said(*texts)), of(said(*texts, "more", "and more"))
    assert len(one.digests) == len(one.sizes) <= LAST + 64
    assert len(one.lasting) <= 40
    assert list(one.sizes) == sorted(one.sizes)
    assert one.digests[-1] in two.digests
    assert len(one.digests) - 1 in one.lasting


def test_the_map_tells_who_holds_how_much_and_who_was_first() -> None:
    clock = ManualClock()
    held = Affinity(clock)
    held.remember(of(said("Io?")), "u1")
    clock.advance(1)
    longer = of(said("Io?", "A moon.", "Europa?"))
    held.remember(longer, "u2")
    held.remember(of(said("Titan?")), "u3")
    known = held.known(longer)
    assert known.sizes == {
        "u2": longer.size,
        "u1": of(said("Io?")).size,
        "u3": of(said("Io?")).sizes[0],
    }
    assert known.homes == ("u1", "u2")


def test_nothing_is_known_of_another_organisation() -> None:
    held = Affinity(ManualClock())
    held.remember(of(said("Io?", cache_key="k")), "u1")
    assert held.known(of(said("Io?", cache_key="k"), "b")) == Known()
    assert held.known(of(said("Other.", system="", cache_key="k"))).hinted == ("u1",)


def test_everything_is_forgotten_within_the_hour() -> None:
    clock = ManualClock()
    held = Affinity(clock)
    request = of(said("Io?", "A moon.", "Europa?", cache_key="k"))
    held.remember(request, "u1")
    clock.advance(LIFE_S / 2)
    held.remember(of(said("Titan?")), "u2")
    clock.advance(LIFE_S / 2 + 1)
    known = held.known(request)
    assert known.sizes == {"u2": request.sizes[0]}
    held.expire()
    assert len(held) == len(of(said("Titan?")).lasting)
    clock.advance(LIFE_S)
    held.expire()
    assert (len(held), repr(held)) == (0, "Affinity(0 digests, 0 organisations)")
    assert LIFE_S <= 3600


def test_memory_is_bounded_and_the_fullest_shelf_pays() -> None:
    held = Affinity(ManualClock(), entries_max=500)
    quiet = of(said("Quiet.", system=""), "quiet")
    held.remember(quiet, "u1")
    for at in range(2_000):
        held.remember(of(said(f"Question {at}?", system="")), "u2")
        assert len(held) <= 500
    assert held.known(quiet).sizes == {"u1": quiet.size}
    assert len(held.known(of(said("Question 1999?", system=""))).sizes) == 1
    assert held.known(of(said("Question 0?", system=""))).sizes == {}


def test_no_text_stays_and_none_shows() -> None:
    canary = "canary-in-the-prompt"
    held = Affinity(ManualClock())
    request = of(said(f"{canary} 1", f"{canary} 2" * 900, cache_key=canary, tools=(Tool(canary),)))
    held.remember(request, "u1")
    seen: set[int] = set()
    todo: list[Any] = [held, request]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        assert canary not in (thing if isinstance(thing, str) else "")
        assert canary.encode() not in (thing if isinstance(thing, bytes) else b"")
        todo += gc.get_referents(thing)
    assert len(seen) > 20
    shown = repr(request) + repr(held)
    assert canary not in shown
    assert not any(d.hex() in shown or repr(d) in shown for d in request.digests)


def test_a_conversation_stays_leaves_when_it_must_and_comes_back() -> None:
    request = of(said("Io?"))
    known = Known({"u3": request.size}, ("u3",), ())
    assert choose(up(), request, known)[0].place == "u3"
    for state in ("full", "draining", "ejected"):
        places = [Place(n, state=state if n == "u3" else "up") for n in NAMES]
        chosen = choose(places, request, known)
        assert chosen[0].place != "u3"
        assert (chosen[-1].place, chosen[-1].reason) == ("u3", state)
        # Now it was a guest elsewhere, which holds more than its home does.
        longer = of(said("Io?", "A moon of Jupiter.", "Europa?"))
        both = Known(
            {"u3": request.size, chosen[0].place: longer.size}, ("u3", chosen[0].place), ()
        )
        assert choose(places, longer, both)[0].place == chosen[0].place
        assert choose(up(), longer, both)[0].place == "u3"


STATES: tuple[State, ...] = ("up", "up", "up", "full", "draining", "ejected")


@given(st.data())
def test_a_history_of_trouble_never_moves_a_conversation_without_cause(data: st.DataObject) -> None:
    """Whatever happened meanwhile: a home that is well again is where the conversation goes."""
    held = Affinity(ManualClock())
    texts = ["Io?"]
    home = choose(up(), of(said(*texts)), Known(), 8)[0].place
    held.remember(of(said(*texts)), home)
    for turn in range(data.draw(st.integers(1, 8))):
        texts += ["A moon.", f"And {turn}?"]
        request = of(said(*texts))
        places = [Place(name, state=data.draw(st.sampled_from(STATES))) for name in NAMES]
        order = choose(places, request, held.known(request), 8)
        assert sorted(choice.place for choice in order) == sorted(NAMES)
        well = {place.name for place in places if place.state == "up"}
        assert order[0].place in well or not well
        if home in well:
            assert (order[0].place, order[0].reason) == (home, "prefix")
        held.remember(request, order[0].place)


def test_a_home_that_holds_little_is_not_gone_back_to() -> None:
    request = of(said("Io?" * 100, "A" * 5_000, "Europa?"))
    known = Known({"u3": 400, "u5": request.size}, ("u3", "u5"), ())
    assert choose(up(), request, known)[0].place == "u5"


def test_load_moves_a_conversation_only_beyond_both_thresholds() -> None:
    request = of(said("Io?"))
    known = Known({"u0": request.size}, ("u0",), ())

    def first(busy: int, others: int) -> str:
        return choose([Place("u0", running=busy), *up(*NAMES[1:], running=others)], request, known)[
            0
        ].place

    assert first(16, 0) == "u0"  # less than 16 above the mean
    assert first(30, 0) != "u0"
    assert first(130, 100) == "u0"  # many more, but not half as many again
    assert first(200, 100) != "u0"


def test_a_new_conversation_passes_over_who_has_more_than_its_share() -> None:
    request = of(said("Io?"))
    idle = choose(up(), request, Known())
    assert {choice.reason for choice in idle[1:]} == {"next"}
    home = idle[0].place
    busy = [Place(n, running=2, work=1e6 if n == home else 1e5) for n in NAMES]
    chosen = choose(busy, request, Known())
    assert (chosen[0].place, chosen[0].reason) == (idle[1].place, "spread")
    assert {choice.place for choice in chosen} == set(NAMES)


def test_the_cache_key_decides_where_no_prefix_does() -> None:
    request = of(said("Io?", cache_key="k"))
    root_only = {"u1": request.sizes[0]}
    chosen = choose(up(), request, Known(root_only, (), ("u6",)))
    assert (chosen[0].place, chosen[0].reason) == ("u6", "key")
    both = Known({"u2": request.size}, ("u2",), ("u6",))
    assert [choice.place for choice in choose(up(), request, both)][:2] == ["u2", "u6"]


def test_tiers_come_in_order_and_weights_share_within_one() -> None:
    places = [Place("a", tier=1), Place("b"), Place("c"), Place("d", tier=2)]
    for at in range(20):
        names = [c.place for c in choose(places, of(said(f"{at}?")), Known(), 2)]
        assert set(names[:2]) == {"b", "c"}
        assert names[2:] == ["a", "d"]
    drawn = [
        rendezvous(of(said(f"{at}?", system="")).anchor, [Place("x", weight=3), Place("y")])[0].name
        for at in range(2_000)
    ]
    assert 0.70 < drawn.count("x") / 2_000 < 0.80


def test_two_that_know_nothing_of_each_other_agree_and_one_more_place_moves_few() -> None:
    requests = [of(said(f"Question {at}?", system="")) for at in range(400)]
    before = [choose(up(), request, Known(), 8)[0].place for request in requests]
    assert before == [
        choose(list(reversed(up())), request, Known(), 8)[0].place for request in requests
    ]
    assert min(before.count(name) for name in NAMES) > 20
    more = [choose([*up(), Place("u8")], request, Known(), 9)[0].place for request in requests]
    moved = [new for old, new in zip(before, more, strict=True) if old != new]
    assert set(moved) == {"u8"}
    assert len(moved) < 90


def test_loads_count_what_runs_and_fade_what_was() -> None:
    clock = ManualClock()
    loads = Loads(clock)
    berth = loads.take("u1", "a", 10_000, 9_000)
    assert loads.load("u1").running == 1
    before = loads.load("u1").work
    assert loads.take("u1", "a", 10_000, 0).place == "u1"
    assert loads.load("u1").work > before + 9_000
    berth.move("u2")
    assert [loads.load(name).running for name in ("u1", "u2")] == [1, 1]
    berth.leave()
    berth.leave()
    assert loads.load("u2").running == 0
    clock.advance(1_200)
    assert loads.load("u1").work < 2


def test_a_large_organisation_spreads_and_a_small_one_stays_together() -> None:
    loads = Loads(ManualClock())
    for at in range(2_000):
        loads.take("u1", "small" if at % 500 == 0 else "large", 4_000, 0).leave()
    assert loads.breadth("large", 64) == 64
    assert loads.breadth("small", 64) in (1, 8)
    assert loads.breadth("unknown", 64) == 1


def test_the_decision_is_quick_and_hashing_bounded() -> None:
    request = of(said("x" * 20_000_000))
    assert len(request.digests) < 150
    began = time.process_time()
    for _ in range(50):
        choose([Place(f"u{at}") for at in range(64)], request, Known(), 64, Limits())
    assert (time.process_time() - began) / 50 < 0.05  # far above what it takes


def test_a_long_conversation_takes_no_more_room_than_a_few_dozen_digests() -> None:
    affinity, words = Affinity(ManualClock()), [f"Line {at}." for at in range(400)]
    for count in range(1, 400, 2):
        affinity.remember(of(said(*words[:count])), "u1")
    assert len(affinity) < 40
    forked = affinity.known(of(said(*words[:150], "Another way.")))
    assert forked.homes == ("u1",)
    assert forked.sizes["u1"] > of(said(*words[:150])).size // 2


def test_what_another_place_holds_too_is_not_let_go_of() -> None:
    affinity, words = Affinity(ManualClock()), [f"Line {at}." for at in range(60)]
    short = of(said(*words[:9]))
    affinity.remember(short, "u1")
    affinity.remember(short, "u2")
    affinity.remember(of(said(*words)), "u1")
    assert affinity.known(short).sizes["u2"] == short.size


def test_a_new_conversation_passes_over_who_worked_a_tenth_more_than_the_mean() -> None:
    asked = of(said("Io?"))
    first = choose(up(), asked, Known())[0].place
    for work, running, passed in ((104_000.0, 2, False), (120_000.0, 2, True), (10e6, 1, False)):
        works = {name: work if name == first else 100_000.0 for name in NAMES}
        places = [Place(name, running=running, work=works[name]) for name in NAMES]
        chosen = choose(places, asked, Known())[0]
        assert (chosen.place != first, chosen.reason == "spread") == (passed, passed)


def test_a_home_is_remembered_however_many_guests_there_were() -> None:
    affinity, asked = Affinity(ManualClock()), of(said("Io?"))
    for name in NAMES:
        affinity.remember(asked, name)
    assert affinity.known(asked).homes == ("u0", "u5", "u6", "u7")
    assert choose(up(), asked, affinity.known(asked))[0].place == "u0"


def test_one_idle_place_does_not_send_a_conversation_away() -> None:
    """It is loaded beyond the others' mean or it is not: the least of many is an accident."""
    affinity, asked = Affinity(ManualClock()), of(said("Io?"))
    affinity.remember(asked, "u1")
    for running, stays in ((36, True), (60, False)):
        loads = {"u1": running, "u2": 0}
        busy = [Place(name, running=loads.get(name, 30)) for name in NAMES]
        assert (choose(busy, asked, affinity.known(asked))[0].place == "u1") == stays
    two = [Place("u1", running=25), Place("u2", running=8)]
    assert choose(two, asked, affinity.known(asked))[0].place == "u2"
    alone = [Place("u1", running=99, weight=0.3)]
    assert choose(alone, asked, affinity.known(asked))[0].reason == "prefix"
