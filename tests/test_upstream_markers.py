"""Kimi's own markers, leaked by an upstream: calls, or prose, wherever the pieces are cut."""

import itertools
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import UpstreamProtocolError
from moongate.core.events import (
    Choice,
    Event,
    Finished,
    Fold,
    Reason,
    Sequence,
    Started,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
)
from moongate.core.request import Tool
from moongate.upstream.markers import Markers

WEATHER = Tool(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)
TIME = Tool("get_time", parameters={"type": "object", "properties": {"zone": {}}})
TOOLS = (WEATHER, TIME)
BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
BEGIN_ONE, END_ONE = "<|tool_call_section_begin|>", "<|tool_call_section_end|>"


def call(id: str, arguments: str) -> str:
    return f"<|tool_call_begin|>{id}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


ROME = call("3", '{"city":"Rome"}')
NOT_IT = call("0", '{"x":1}')
OSLO = call("functions.get_weather:0", '{"city":"Oslo"}')
CET = call("functions.get_time:1", '{"zone":"CET"}')
TRICKY = '{"city":"<|tool_call_end|> \\"}{ \\\\","days":[{"a":{}}]}'


def pieces(kind: type, text: str, cuts: Iterable[int]) -> list[Event]:
    marks = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    return [kind(text[a:b]) for a, b in itertools.pairwise(marks)]


def read(events: list[Event], reason: Reason = "stop", tools: tuple[Tool, ...] = TOOLS) -> Choice:
    """What the client gets of one choice; the order of the events is checked on the way."""
    markers, order, fold = Markers(tools), Sequence(), Fold()
    for event in (Started(), *events, Finished(reason)):
        for seen in markers.feed([event]):
            order.step(seen)
            fold.add(seen)
    (choice,) = fold.answer().choices
    return choice


def calls_of(choice: Choice) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in choice.calls]


# What leaks, the text that is left, and the calls.
LEAKS = [
    (f"{BEGIN}{OSLO}{END}", "", [("get_weather", '{"city":"Oslo"}')]),
    (f"Let me look. {BEGIN}{OSLO}{END}", "Let me look. ", [("get_weather", '{"city":"Oslo"}')]),
    (
        f"{BEGIN}{OSLO}{CET}{END}",
        "",
        [("get_weather", '{"city":"Oslo"}'), ("get_time", '{"zone":"CET"}')],
    ),
    (
        f"{BEGIN_ONE}\n{OSLO}\n{CET}\n{END_ONE}",
        "",
        [("get_weather", '{"city":"Oslo"}'), ("get_time", '{"zone":"CET"}')],
    ),
    (f"{BEGIN}{call('get_time:7', '{}')}{END}", "", [("get_time", "{}")]),
    (f"{BEGIN}{call(' functions.get_time:7 ', '')}{END}", "", [("get_time", "{}")]),
    (f"{BEGIN}{ROME}{END}", "", [("get_weather", '{"city":"Rome"}')]),
    (f"{BEGIN}{call('functions.get_weather:0', TRICKY)}{END}", "", [("get_weather", TRICKY)]),
    (f"a < b, <b>, <| {OSLO}", "a < b, <b>, <| ", [("get_weather", '{"city":"Oslo"}')]),
    (f"{BEGIN}{OSLO}", "", [("get_weather", '{"city":"Oslo"}')]),
    (
        f"{BEGIN}{OSLO}{call('functions.unheard_of:1', '{}')}{END} Done.",
        " Done.",
        [("get_weather", '{"city":"Oslo"}'), ("unheard_of", "{}")],
    ),
    (f"{BEGIN}{END}Nothing to call.", "Nothing to call.", []),
]


@pytest.mark.parametrize("kind", [Text, Thinking])
@pytest.mark.parametrize(("leak", "text", "calls"), LEAKS)
def test_a_leaked_section_becomes_calls_wherever_it_is_cut(
    kind: type, leak: str, text: str, calls: list[tuple[str, str]]
) -> None:
    for cuts in ([], range(len(leak)), *([cut] for cut in range(1, len(leak)))):
        choice = read(pieces(kind, leak, cuts))
        assert calls_of(choice) == calls
        assert (choice.text if kind is Text else choice.thinking or "") == text
        assert choice.reason == ("tool_calls" if calls else "stop")


@given(st.data())
def test_any_cuts_and_any_mixture_come_to_the_same(data: st.DataObject) -> None:
    parts = data.draw(
        st.lists(
            st.sampled_from(
                ["plain", "<", "<|tool", "< |", "</p>", f"{BEGIN}{OSLO}{END}", f"{BEGIN}{CET}{END}"]
            ),
            max_size=6,
        )
    )
    text = "|".join(parts)
    kinds = data.draw(st.lists(st.sampled_from([Text, Thinking]), min_size=1, max_size=8))
    cuts = data.draw(st.lists(st.integers(0, max(1, len(text))), max_size=20))
    events = [
        kinds[at % len(kinds)](piece.text)  # type: ignore[union-attr]  # they are texts
        for at, piece in enumerate(pieces(Text, text, cuts))
    ]
    choice = read(events)
    left = "|".join("" if "section" in part else part for part in parts)
    got = choice.text if kinds == [Text] else None
    assert len(choice.text) + len(choice.thinking or "") == len(left)
    assert got is None or got == left
    assert calls_of(choice) == [
        ("get_weather", '{"city":"Oslo"}') if "Oslo" in part else ("get_time", '{"zone":"CET"}')
        for part in parts
        if "section" in part
    ]


PROSE = [
    f"Kimi opens with `{BEGIN}` and ends with `{END}`.",
    f"First {BEGIN}, then <|tool_call_begin|>, then the id.",
    f"It looks like {call('functions.NAME:IDX', 'JSON')}.",
    f"An example: {BEGIN}{call('functions.other_tool:0', '{}')}{END}",
    f"{BEGIN}\n\nis a token, and so is <|tool_call_argument_begin|>",
    "<|tool_call_end|> alone, <|tool_calls_section_end|> alone",
    f"{BEGIN}{call('functions.get_weather:0', 'not JSON')}",
    "a <|tool_calls_section",
    "if a <b and c</b> or <think",
    "The tags <think> and </think> stand around reasoning.",
    "```\n<think>\nhm\n</think>\n```",
]


@pytest.mark.parametrize("prose", PROSE)
def test_prose_about_markers_passes_as_it_is(prose: str) -> None:
    for cuts in ([], range(len(prose)), *([cut] for cut in range(1, len(prose)))):
        choice = read(pieces(Text, prose, cuts))
        assert (choice.text, choice.calls, choice.reason) == (prose, (), "stop")
    thought = "I recall that `</think>` ends it and " + prose.replace("\n</think>", " </think>")
    assert read(pieces(Thinking, thought, range(0, len(thought), 7))).thinking == thought


EMPTY = f"{BEGIN}{END}"


@pytest.mark.parametrize(
    "prose",
    [
        f"It writes {EMPTY}",
        f"It writes {EMPTY}, and nothing within.",
        f"It writes {BEGIN} {END}",
        f"`{BEGIN_ONE}{END_ONE}`\n",
        f"Twice: {EMPTY}{EMPTY}",
        f"Or {EMPTY}{END}",
    ],
)
def test_a_section_without_a_call_among_words_is_one_of_them(prose: str) -> None:
    for cuts in ((), (3,), (len(BEGIN),), (len(BEGIN) + 4,), range(len(prose))):
        choice = read(pieces(Text, prose, cuts))
        assert (choice.text, choice.calls, choice.reason) == (prose, (), "stop")
        choice = read([*pieces(Thinking, prose, cuts), Text("So.")])
        assert (choice.thinking, choice.text) == (prose, "So.")


def test_a_section_out_of_which_a_parser_took_the_calls_vanishes() -> None:
    taken = [ToolCall(0, "a", "get_time"), ToolArgs(0, "{}")]
    for events in (
        [Text("Look."), *pieces(Text, EMPTY, (9,)), *taken],
        [Text("Look."), *taken, *pieces(Text, EMPTY, (9,))],
        [Text("Look."), *pieces(Text, BEGIN + OSLO + END + EMPTY, (9,))],
    ):
        choice = read(events, "tool_calls")
        assert (choice.text, len(choice.calls)) == ("Look.", 1)


def test_without_tools_on_offer_a_section_is_prose() -> None:
    text = f"{BEGIN}{OSLO}{END}"
    choice = read(pieces(Text, text, range(len(text))), tools=())
    assert (choice.text, choice.calls, choice.reason) == (text, (), "stop")


def test_a_section_that_breaks_off_is_an_error_and_no_raw_marker_was_sent() -> None:
    whole = f"{BEGIN}{OSLO}{CET}{END}"
    complete = (len(BEGIN + OSLO), len(BEGIN + OSLO + CET))  # all that was begun is there
    for cut in range(len(BEGIN), len(whole)):
        seen: list[Event] = []
        markers = Markers(TOOLS)
        for event in pieces(Text, whole[:cut], range(cut)):
            seen += markers.feed([event])
        assert not any(isinstance(event, Text | Thinking) for event in seen)
        if cut in complete:
            assert markers.feed([Finished("stop")]) == [Finished("tool_calls")]
            continue
        with pytest.raises(UpstreamProtocolError) as broken:
            markers.feed([Finished("stop")])
        assert broken.value.kind == "markers"
        assert not broken.value.unhealthy


def test_broken_arguments_are_an_error() -> None:
    for arguments in ('{"city":<|tool_call_end|>', '{"city":"Oslo"} and more'):
        with pytest.raises(UpstreamProtocolError):
            read([Text(f"{BEGIN}{call('functions.get_weather:0', arguments)}{END}")])
    with pytest.raises(UpstreamProtocolError):  # a number, and no tool that takes this
        read([Text(f"{BEGIN}{NOT_IT}{END}")])


def test_the_cap_may_fall_within_a_section() -> None:
    whole = f"Now: {BEGIN}{OSLO}{END}"
    for cut in range(len("Now: " + BEGIN), len(whole)):
        choice = read(pieces(Text, whole[:cut], range(cut)), "length")
        assert choice.text == "Now: "
        assert choice.reason == "length"
        assert all('{"city":"Oslo"}'.startswith(call.arguments) for call in choice.calls)


# Pieces as they come (T: content, R: reasoning), and the content and reasoning that are left.
THOUGHTS: list[tuple[list[tuple[str, str]], str, str | None]] = [
    ([("T", "<think>Hm.</think>Yes.")], "Yes.", "Hm."),
    ([("T", "\n<think>Hm."), ("T", "</think>"), ("T", "Yes.")], "\nYes.", "Hm."),
    ([("R", "<think>Hm."), ("T", "Yes.")], "Yes.", "Hm."),
    ([("R", "Hm."), ("T", "</think>Yes.")], "Yes.", "Hm."),
    ([("R", "Hm."), ("T", "\n</think>\n\nYes.")], "\n\n\nYes.", "Hm."),
    ([("R", "Hm.</think>Yes.")], "Yes.", "Hm."),
    ([("R", "Hm.</th"), ("R", "ink>"), ("T", "Yes.")], "Yes.", "Hm."),
    ([("R", "Hm.</think>"), ("R", "Yes."), ("T", " Sure.")], "Yes. Sure.", "Hm."),
    ([("R", "Hm.</think>")], "", "Hm."),
    ([("T", "Yes.</think>")], "Yes.</think>", None),
    ([("R", "So '</think>' it is.")], "", "So '</think>' it is."),
]


@pytest.mark.parametrize(("said", "text", "thinking"), THOUGHTS)
def test_think_marks_part_reasoning_from_content(
    said: list[tuple[str, str]], text: str, thinking: str | None
) -> None:
    for size in (1, 3, 100):
        events: list[Event] = []
        for word, whole in said:
            kind = Text if word == "T" else Thinking
            events += pieces(kind, whole, range(0, len(whole), size))
        choice = read(events)
        assert (choice.text, choice.thinking) == (text, thinking)


def test_calls_within_reasoning_end_it() -> None:
    leak = f"I must look.</think>{BEGIN}{OSLO}{END}"
    choice = read(pieces(Thinking, leak, range(len(leak))))
    assert (choice.text, choice.thinking) == ("", "I must look.")
    assert calls_of(choice) == [("get_weather", '{"city":"Oslo"}')]


def test_a_section_may_begin_in_reasoning_and_go_on_in_content() -> None:
    leak = f"{BEGIN}{OSLO}{END}"
    for cut in range(1, len(leak)):
        choice = read([Thinking("Hm."), Thinking(leak[:cut]), Text(leak[cut:])])
        assert (choice.text, choice.thinking) == ("", "Hm.")
        assert calls_of(choice) == [("get_weather", '{"city":"Oslo"}')]


def test_markers_around_an_upstreams_own_calls_vanish() -> None:
    own = [ToolCall(0, "x", "get_time"), ToolArgs(0, "{}")]
    for before in (BEGIN, f"{BEGIN}<|tool_call_begin|>functions.get"):
        choice = read([Text("Look. "), Text(before), *own, Text(END)], "tool_calls")
        assert (choice.text, calls_of(choice)) == ("Look. ", [("get_time", "{}")])
    choice = read([Text("a <|tool_call"), *own], "tool_calls")
    assert choice.text == "a <|tool_call"


def test_leaked_calls_and_the_upstreams_own_keep_their_indexes_apart() -> None:
    events: list[Event] = [
        ToolCall(0, "x", "get_time"),
        ToolArgs(0, "{}"),
        Text(f"{BEGIN}{OSLO}{END}"),
        ToolCall(1, "y", "get_time"),
        ToolArgs(1, '{"zone":1}'),
        ToolArgs(0, " "),
    ]
    assert calls_of(read(events, "tool_calls")) == [
        ("get_time", "{} "),
        ("get_weather", '{"city":"Oslo"}'),
        ("get_time", '{"zone":1}'),
    ]


def test_choices_are_read_apart() -> None:
    markers, fold = Markers(TOOLS), Fold()
    leak = f"{BEGIN}{OSLO}{END}"
    for at in range(len(leak)):
        for event in markers.feed([Text(leak[at], 0), Text(leak[at].upper(), 1)]):
            fold.add(event)
    for event in markers.feed([Finished("stop", 1), Finished("stop", 0)]):
        fold.add(event)
    first, second = fold.answer().choices
    assert (first.text, calls_of(first)) == ("", [("get_weather", '{"city":"Oslo"}')])
    assert (second.text, second.calls) == (leak.upper(), ())


def test_nothing_is_held_that_cannot_be_a_marker_and_arguments_flow() -> None:
    markers = Markers(TOOLS)
    assert markers.feed([Text("a <b")]) == [Text("a <b")]
    assert markers.feed([Text("x <")]) == [Text("x ")]
    assert markers.feed([Text("y")]) == [Text("<y")]
    assert markers.feed([Text("x <|tool_call")]) == [Text("x ")]
    assert markers.feed([Text("ing")]) == [Text("<|tool_calling")]
    head = f"{BEGIN}<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    assert markers.feed([Text(head)]) == []
    assert markers.feed([Text('{"ci')]) == [ToolCall(0, "", "get_weather"), ToolArgs(0, '{"ci')]
    assert markers.feed([Text('ty":"O')]) == [ToolArgs(0, 'ty":"O')]


def test_an_ordinary_event_passes_as_the_same_object_and_costs_next_to_nothing() -> None:
    markers = Markers(TOOLS)
    markers.feed([Thinking("Hm."), Text("Yes.")])
    batch: list[Event] = [Text(f"word{at} ") for at in range(1000)]
    out = markers.feed(batch)
    assert all(one is other for one, other in zip(out, batch, strict=True))

    def took_s() -> float:
        began = time.perf_counter()
        markers.feed(batch)
        return time.perf_counter() - began

    assert min(took_s() for _ in range(20)) / len(batch) < 1e-6


def test_a_whole_page_in_one_piece_costs_by_its_length() -> None:
    page = "<table>" + "<th>Io</th><th" * 20_000

    def took_s(page: str) -> float:
        markers = Markers(TOOLS)
        began = time.perf_counter()
        out = markers.feed([Text(page), Finished("stop")])
        took_s = time.perf_counter() - began
        assert "".join(event.text for event in out if isinstance(event, Text)) == page
        return took_s

    short = min(took_s(page[: len(page) // 32]) for _ in range(3))
    assert took_s(page) < 80 * short


def test_no_repr_tells_content() -> None:
    markers: Any = Markers(TOOLS)
    markers.feed([Text("canary <|tool_call")])
    choice = markers._choices[0]
    assert "canary" not in repr((markers, choice, choice._held))
