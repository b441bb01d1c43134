"""The prompt: stable as it grows, and no text of a client becomes a control token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_kit import BRIEF_TASK, BRIEF_TOOLS, READ, SEARCH, request
from moongate.core.errors import UpstreamRefused
from moongate.core.request import (
    Call,
    Format,
    ImagePart,
    Message,
    Request,
    TextPart,
    Tool,
    ToolChoice,
)
from moongate.upstream.engine_goal import Goal, constraint, decide, dropped
from moongate.upstream.engine_prompt import Marks, chatml, prefill, turns
from moongate.upstream.engine_tools import best, pick, words
from moongate.wire.ids import call_id, calls_in

MARKS = Marks(open=1, close=2)
CALL = Call("functions.read_file:0", "read_file", '{"path": "a"}')


def told(*messages: Message, **more: object) -> Request:
    return Request(model="kimi-k2.5", messages=messages, **more)


def test_a_question_is_one_turn_and_the_opening_of_the_answer():
    pieces = chatml(turns(request("Hi")), "", MARKS)
    assert pieces == [1, "user\nHi", 2, "\n", 1, "assistant\n"]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_control_tokens_are_ids_of_ours_and_nothing_else(texts):
    asked = told(*(Message("user", text) for text in texts))
    pieces = chatml(turns(asked), "", MARKS)
    assert [piece for piece in pieces if isinstance(piece, int)] == [1, 2, 1]
    assert "".join(piece for piece in pieces if isinstance(piece, str)).count("\n") >= 3


def test_tools_stand_in_the_system_turn_and_the_prompt_only_grows():
    first = told(Message("system", "Be brief."), Message("user", "Read a"), tools=(READ,))
    rounds = told(
        *first.messages,
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "contents", tool_call_id=CALL.id),
        tools=(READ,),
    )
    one, two = turns(first), turns(rounds)
    assert one[0].text.startswith("Be brief.\n\nTools:\n")
    assert '"name": "read_file"' in one[0].text
    assert two[: len(one)] == one
    assert two[2].text == (
        '<tool_call>\n{"name": "read_file", "arguments": {"path": "a"}}\n</tool_call>'
    )
    assert two[3].role == "user"
    assert two[3].text.startswith("<tool_response>\ncontents\n</tool_response>")


def test_what_the_forced_opening_says_is_what_history_will_say():
    goal = decide(told(Message("user", "Read the file a"), tools=(READ,)))
    written = turns(told(Message("assistant", tool_calls=(CALL,))))[0].text
    assert written == f"{goal.opening}{CALL.arguments}}}\n</tool_call>"


def test_parts_join_and_pictures_are_refused():
    assert turns(told(Message("user", (TextPart("a"), TextPart("b")))))[0].text == "ab"
    with pytest.raises(UpstreamRefused) as caught:
        turns(told(Message("user", (ImagePart("data:image/png;base64,AA"),))))
    assert (caught.value.row, caught.value.facts) == ("unsupported_ability", {"ability": "images"})


def test_partial_is_prefilled_and_not_a_turn():
    asked = told(Message("user", "Count"), Message("assistant", "1, 2,", partial=True))
    assert prefill(asked) == ("1, 2,", "")
    assert len(turns(asked)) == 1
    assert decide(asked).opening == "1, 2,"
    assert prefill(told(Message("assistant", "1, 2,"))) is None


def test_a_partial_answer_keeps_its_format():
    messages = (Message("user", "Count"), Message("assistant", '{"a', partial=True))
    goal = decide(told(*messages, format=Format("json_object")))
    assert (goal.kind, goal.opening, goal.prefix) == ("object", '{"a', '{"a')
    schema = {"type": "object", "properties": {"b": {"const": 1}}, "additionalProperties": False}
    with pytest.raises(UpstreamRefused, match="unsuitable_prefix"):
        constraint(decide(told(*messages, format=Format("json_schema", schema=schema))), 50)


def test_a_named_partial_answer_is_spoken_by_that_name():
    last = Message("assistant", "Elementary", name="Sherlock\n Holmes", partial=True)
    goal = decide(told(Message("user", "Hm?", name="Watson"), last))
    pieces = chatml(turns(told(Message("user", "Hm?", name="Watson"))), "E", MARKS, goal.speaker)
    assert pieces == [1, "Watson\nHm?", 2, "\n", 1, "Sherlock Holmes\nE"]


def test_speakers_of_one_role_have_turns_of_their_own():
    said = told(*(Message("user", "x", name=name) for name in (None, "A", "A", "B")))
    assert [(turn.speaker, turn.text) for turn in turns(said)] == [
        ("", "x"),
        ("A", "x\nx"),
        ("B", "x"),
    ]


def test_a_partial_answer_with_tools_goes_on_as_text_unless_one_is_demanded():
    messages = (Message("user", BRIEF_TASK), Message("assistant", "First, ", partial=True))
    assert decide(told(*messages, tools=BRIEF_TOOLS)) == Goal(opening="First, ")
    forced = told(*messages, tools=BRIEF_TOOLS, tool_choice=ToolChoice("named", "read_file"))
    goal = decide(forced)
    assert (goal.kind, goal.tool) == ("call", "read_file")
    assert goal.opening.startswith("First, \n<tool_call>")


def test_a_schema_that_need_not_be_kept_strictly_becomes_any_object():
    odd = Tool("f", None, {"type": "object", "not": {"required": ["a"]}})
    goal = decide(request("f", tools=(odd,), tool_choice=ToolChoice("required")))
    assert "grammar" in constraint(goal, 50)
    strict = Tool("f", None, odd.parameters, strict=True)
    with pytest.raises(UpstreamRefused, match="unsupported_schema"):
        constraint(decide(request("f", tools=(strict,), tool_choice=ToolChoice("required"))), 50)


@pytest.mark.parametrize(
    ("question", "tool"),
    [
        (BRIEF_TASK, "search_codebase"),
        ("Please read the file config.toml", "read_file"),
        ("Write 'hello' to greeting.txt, the content is up to you", "write_file"),
        ("What is the capital of France?", None),
        ("Hi there", None),
        ("", None),
    ],
)
def test_auto_goes_by_the_words(question, tool):
    found = pick(request(question, tools=BRIEF_TOOLS))
    assert (found.name if found else None) == tool


def test_auto_never_calls_after_a_tools_result_nor_without_leave():
    after = told(
        Message("user", BRIEF_TASK),
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "search codebase files", tool_call_id=CALL.id),
        tools=BRIEF_TOOLS,
    )
    assert pick(after) is None
    assert decide(after).kind == "text"
    none = request(BRIEF_TASK, tools=BRIEF_TOOLS, tool_choice=ToolChoice("none"))
    assert decide(none).kind == "text"
    assert turns(none)[0].role == "user"


def test_required_and_named_always_call():
    required = decide(request("Hi", tools=BRIEF_TOOLS, tool_choice=ToolChoice("required")))
    assert (required.kind, required.tool) == ("call", "search_codebase")
    named = decide(request("Hi", tools=BRIEF_TOOLS, tool_choice=ToolChoice("named", "read_file")))
    assert (named.kind, named.tool) == ("call", "read_file")
    with pytest.raises(UpstreamRefused):
        decide(request("Hi", tools=BRIEF_TOOLS, tool_choice=ToolChoice("named", "nothing")))


def test_an_upstreams_own_tools_are_not_called():
    built_in = Tool("$web_search", "search", type="builtin_function")
    assert best(request("web search", tools=(built_in, SEARCH))) == SEARCH
    assert decide(request("search", tools=(built_in,))).kind == "text"


def test_words_split_names_and_scripts_without_spaces():
    assert words("readFile") == words("read_file") == {"read", "file"}
    assert words("the files") == words("a file")
    assert words("北京天气") & words("查询天气")


def test_calls_are_counted_over_the_whole_conversation():
    asked = told(
        Message("assistant", tool_calls=(CALL, CALL)), Message("assistant", tool_calls=(CALL,))
    )
    assert call_id("f", calls_in(asked.messages)) == "functions.f:3"


def test_only_the_seed_goes_along():
    asked = request("Hi", extra={"seed": 1, "grammar": "x", "a b": 1})
    assert dropped(asked) == ("grammar",)
