"""A prompt's tokens: the arithmetic of the template, what is exact, and bounds that hold."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.core.errors import Refused, UpstreamTooLong
from moongate.core.request import (
    Call,
    Format,
    ImagePart,
    Message,
    Request,
    TextPart,
    Tool,
    VideoPart,
)
from moongate.meter import images, template, tokens, videos
from moongate.meter.tokenizer import Tokenizer
from moongate.meter.tokens import Count, cap, count, lowered
from test_meter_images import png, url
from vocabulary_kit import small_tokenizer

WINDOW = 262_144
USER = Message("user", "the moon")
CALL = Call("functions.look:0", "look", '{"at":"the moon"}')


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def asked(*messages: Message, **more: Any) -> Request:
    return Request("moon-1", messages, **more)


MARK = "\x00"


def written(request: Request, *, read_control: bool = False) -> str:
    """The prompt as text, with a NUL for each control token: the template, written once more.

    Plain requests only: no tools, no pictures.
    """
    last = -1
    for at, message in enumerate(request.messages):
        if message.role == "assistant" and not message.tool_calls and not message.partial:
            last = at
    out = ""
    for at, message in enumerate(request.messages):
        role = message.name or message.role.replace("developer", "system")
        out += f"{MARK}{role}{MARK}"
        if message.role == "assistant":
            kept = message.thinking if at > last else ""
            out += f"{MARK}{kept or ''}{MARK}"
        if message.role == "tool":
            out += f"## Return of {message.tool_call_id}\n"
        out += message.text()
        if message.tool_calls:
            out += MARK
            for call in message.tool_calls:
                out += f"{MARK}{call.id}{MARK}{call.arguments}{MARK}"
            out += MARK
        out += "" if message.partial else MARK
    if not request.messages[-1].partial:
        out += f"{MARK}assistant{MARK}{MARK}" + (MARK if request.thinking is False else "")
    return template.SPELT.sub(MARK, out) if read_control else out


def reference(request: Request, tokenizer: Tokenizer, **more: bool) -> int:
    pieces = re.split(MARK, written(request, **more))
    return len(pieces) - 1 + sum(tokenizer.count(piece) for piece in pieces)


TEXT = st.text(st.sampled_from("the moon\n\u6708<>|_im[EOS]{}\"'/k1"), max_size=40)
SPOKEN = st.sampled_from(["", "the moon", "<|im_end|>", "a<think>b</think>", "[EOS]", "\u6708 12"])
BODY = st.one_of(TEXT, SPOKEN, st.lists(TEXT.map(TextPart), min_size=1, max_size=3).map(tuple))
NAMES = st.none() | st.sampled_from(["user", "moon", "Ann <|x|>"])
TURN = st.builds(Message, st.sampled_from(["system", "user", "developer"]), BODY, NAMES)
SAID = st.builds(Message, st.just("assistant"), BODY, NAMES, st.none() | SPOKEN)
LOOP = st.builds(
    lambda thinking, arguments, result: (
        Message(
            "assistant",
            thinking=thinking,
            tool_calls=(msgspec.structs.replace(CALL, arguments=arguments),),
        ),
        Message("tool", result, tool_call_id=CALL.id),
    ),
    st.none() | SPOKEN,
    TEXT,
    BODY,
)
TALK = st.lists(st.one_of(TURN.map(lambda m: (m,)), SAID.map(lambda m: (m,)), LOOP), max_size=5)
PARTIAL = st.booleans()


def conversation(talk: list[tuple[Message, ...]], thinking: bool | None, partial: bool) -> Request:
    messages = [message for turns in talk for message in turns] + [USER]
    if partial:
        messages.append(Message("assistant", "the m", partial=True))
    return asked(*messages, thinking=thinking)


@settings(max_examples=300, deadline=None)
@given(TALK, st.sampled_from([None, True, False]), PARTIAL)
def test_any_conversation_lies_between_its_bounds(
    small: Tokenizer, talk: list[tuple[Message, ...]], thinking: bool | None, partial: bool
) -> None:
    request = conversation(talk, thinking, partial)
    told, blind = count(request, WINDOW, small), count(request, WINDOW)
    for read_control in (False, True):
        real = reference(request, small, read_control=read_control)
        assert told.least <= real <= told.bound
        assert blind.least <= real <= blind.bound
    assert told.least <= told.tokens <= told.bound <= blind.bound
    if told.exact:
        assert told == Count.exactly(reference(request, small))
    calls = any(message.tool_calls for message in request.messages)
    spells = template.SPELT.search(written(request))
    assert told.exact or calls or spells
    assert template.may_spell(written(request)) or not spells


def test_a_question_takes_what_the_template_says(small: Tokenizer) -> None:
    # role, "user", middle, text, end; then role, "assistant", middle, think.
    one = 3 + small.count("user") + small.count("the moon")
    prompt = 3 + small.count("assistant")
    assert count(asked(USER), WINDOW, small) == Count.exactly(one + prompt)
    assert count(asked(USER, thinking=False), WINDOW, small) == Count.exactly(one + prompt + 1)
    named = msgspec.structs.replace(USER, name="moon")
    assert count(asked(named), WINDOW, small).tokens == one + prompt - small.count("user") + 1


def test_parts_are_joined_before_they_are_merged(small: Tokenizer) -> None:
    parts = Message("user", (TextPart("th"), TextPart("e m"), TextPart("oon")))
    assert count(asked(parts), WINDOW, small) == count(asked(USER), WINDOW, small)


def test_reasoning_is_counted_only_after_the_last_plain_answer(small: Tokenizer) -> None:
    def thought(text: str, then: tuple[Message, ...], **more: Any) -> Count:
        call = Message("assistant", "", thinking=text, tool_calls=(CALL,))
        result = Message("tool", "moon", tool_call_id=CALL.id)
        return count(asked(USER, call, result, *then, **more), WINDOW, small)

    plain = (Message("assistant", "the moon", thinking="moon moon moon"), USER)
    long, short = "moon " * 50, ""
    assert thought(long, plain) == thought(short, plain)
    assert thought(long, ()).least - thought(short, ()).least == small.count(long)
    # Without thinking templates may keep it or not: it stands in the bound alone.
    instant = (thought(long, (), thinking=False), thought(short, (), thinking=False))
    assert instant[0].least == instant[1].least
    assert instant[0].bound >= instant[1].bound + small.count(long)


def test_calls_are_counted_under_the_ids_that_the_model_is_sent(small: Tokenizer) -> None:
    def answered(id: str) -> Count:
        call = Message("assistant", tool_calls=(msgspec.structs.replace(CALL, id=id),))
        return count(asked(USER, call, Message("tool", "moon", tool_call_id=id)), WINDOW, small)

    assert answered("call_0123456789abcdef0123456789abcdef") == answered(CALL.id)


def test_a_prefix_has_no_end_and_no_generation_prompt(small: Tokenizer) -> None:
    whole = count(asked(USER, Message("assistant", "the m")), WINDOW, small)
    prefix = count(asked(USER, Message("assistant", "the m", partial=True)), WINDOW, small)
    assert prefix == Count.exactly(whole.tokens - 1 - 3 - small.count("assistant"))
    thought = Message("assistant", "the m", thinking="moon", partial=True)
    assert not count(asked(USER, thought), WINDOW, small).exact


def test_what_others_spell_makes_a_count_inexact(small: Tokenizer) -> None:
    tool = Tool("look", "Looks at the moon.", {"type": "object", "properties": {}})
    shape = Format("json_schema", "moon", {"type": "object"})
    for request in (asked(USER, tools=(tool,)), asked(USER, format=shape)):
        found, bare = count(request, WINDOW, small), count(asked(USER), WINDOW, small)
        assert not found.exact
        assert bare.least <= found.least < found.tokens < found.bound
        # A TypeScript-like rendering and JSON both fit below the bound.
        assert found.bound - bare.bound >= len(msgspec.json.encode(tool.parameters))
    assert count(asked(USER, format=Format("json_object")), WINDOW, small).exact


def test_pictures_count_by_their_size_and_unknown_ones_as_the_largest(small: Tokenizer) -> None:
    def shown(address: str) -> Request:
        return asked(Message("user", (TextPart("the"), ImagePart(address), TextPart(" moon"))))

    bare = count(asked(USER), WINDOW, small).tokens
    known = count(shown(url(png(1920, 1080))), WINDOW, small)
    assert known == Count.exactly(bare + 2691 + images.WRAPPER)
    blank = count(shown("ms://file"), WINDOW, small)
    assert not blank.exact
    assert (blank.least, blank.bound) == (bare + 5, bare + images.TOKENS_MAX)
    blind = count(shown("ms://file"), WINDOW)
    assert blind.bound >= blank.bound
    video = count(asked(Message("user", (VideoPart("ms://v"),))), WINDOW, small)
    assert (video.exact, video.bound) == (False, WINDOW)


@pytest.mark.parametrize(
    ("ms", "groups"), [(1, 1), (1_000, 1), (1_500, 1), (2_000, 2), (60_000, 31)]
)
def test_a_video_takes_a_frames_tokens_for_every_two_seconds(small: Tokenizer, ms, groups) -> None:
    def film(size: tuple[int, int] | None) -> Request:
        part = VideoPart("data:", duration_ms=ms, size=size)
        return asked(Message("user", (TextPart("the moon"), part)))

    bare = count(asked(USER), WINDOW, small).tokens
    assert videos.groups(ms) == groups
    for tokenizer in (small, None):
        found = count(film((1280, 720)), WINDOW, tokenizer)
        blank = count(film(None), WINDOW, tokenizer)
        one = images.tokens(1280, 720, videos.PATCHES_MAX)
        assert found.tokens - blank.tokens == groups * (one + 8)
        assert found.bound == blank.bound > bare + groups * videos.FRAME_TOKENS_MAX
        assert found.bound < bare + (groups + 1) * videos.FRAME_TOKENS_MAX + 1_000


def test_no_frame_takes_more_than_the_ceiling() -> None:
    most = max(images.tokens(w, 153, videos.PATCHES_MAX) for w in range(6_000, 7_500))
    assert 1_300 < most <= videos.FRAME_TOKENS_MAX
    assert max(images.tokens(s, s, videos.PATCHES_MAX) for s in range(1, 6_000)) == 1_089


def test_text_that_cannot_fit_is_not_encoded(small: Tokenizer) -> None:
    class Never(Tokenizer):
        def count(self, text: str) -> int:
            raise AssertionError("it was encoded")

    described = asked(USER, tools=(Tool("t", description="the moon " * 10_000),))
    found = count(described, 8192, Never(list, 1, 6))
    assert (found.least < 100, found.bound) == (True, 8192)  # how it is spelt, nobody knows
    huge = asked(Message("user", "the moon " * 10_000))
    found = count(huge, 8192, Never(list, 1, 6))
    assert found.least == found.bound >= 8192
    with pytest.raises(Refused) as caught:
        cap(found, 100, 8192)
    assert caught.value.code == "context_length_exceeded"


CAPS = [
    # prompt, wanted, window -> cap
    (Count.exactly(100), 500, 1000, 500),
    (Count.exactly(100), 900, 1000, 900),
    (Count.exactly(100), 901, 1000, 900),
    (Count.exactly(999), 500, 1000, 1),
    # Not known exactly: the best estimate and some doubt, an eighth of the room at most.
    (Count(100, 200, 300), 600, 1000, 600),
    (Count(100, 200, 300), 850, 1000, 700),
    (Count(100, 200, 220), 850, 1000, 780),
    (Count(100, 200, 1000), 901, 1000, 700),
    (Count(1, 50_000, 200_000), 262_144, 262_144, 262_144 - 50_000 - 160 - 12_500),
    (Count(1, 50_000, 200_000), 131_072, 262_144, 131_072),
    # By the estimate next to nothing is left, and still it may fit: the upstream will say.
    (Count(1, 262_143, 262_144), 100_000, 262_144, 32_767),
    (Count(100, 1000, 1000), 500, 1000, 112),
    (Count(998, 999, 1000), 500, 1000, 1),
]


@pytest.mark.parametrize(("prompt", "wanted", "window", "expected"), CAPS)
def test_a_cap_is_lowered_to_the_room_left(
    prompt: Count, wanted: int, window: int, expected: int
) -> None:
    assert cap(prompt, wanted, window) == expected


TOO_LONG = [
    # prompt, cap, what the upstream told -> the cap to ask with again
    (Count(1, 20, 300), 900, UpstreamTooLong(limit=1000, prompt=150, total=1050), 850),
    (Count(1, 20, 300), 900, UpstreamTooLong(limit=1000, prompt=999), 1),
    (Count(1, 20, 300), 900, UpstreamTooLong(limit=1000, total=1010), 890),
    (Count(1, 20, 300), 900, UpstreamTooLong(limit=1000), 700),
    (Count(1, 20, 300), 900, UpstreamTooLong(limit=1000, prompt=101, exact=False), 700),
    (Count(1, 200, 5000), 900, UpstreamTooLong(limit=1000, prompt=101, exact=False), 449),
    (Count(1, 200, 5000), 900, UpstreamTooLong(limit=1000), 450),
    # The prompt alone is too long, or nothing was told that helps.
    (Count(1, 20, 300), 900, UpstreamTooLong(limit=1000, prompt=1000), None),
    (Count(1, 20, 300), 900, UpstreamTooLong(limit=1000, total=1901), None),
    (Count(1, 20, 300), 900, UpstreamTooLong(prompt=100), None),
    (Count.exactly(100), 900, UpstreamTooLong(limit=1000), None),
    (Count(1, 20, 300), 10, UpstreamTooLong(limit=1000, prompt=500), None),
]


@pytest.mark.parametrize(("prompt", "asked_for", "error", "expected"), TOO_LONG)
def test_what_the_upstream_tells_lowers_the_cap_once_more(
    prompt: Count, asked_for: int, error: UpstreamTooLong, expected: int | None
) -> None:
    assert lowered(asked_for, prompt, error) == expected


def test_without_room_the_refusal_has_both_figures_and_the_words_that_agents_match() -> None:
    with pytest.raises(Refused) as caught:
        cap(Count.exactly(1000), 1, 1000)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert "needs 1001 tokens" in error.message
    assert "exceeded model token limit : 1000" in error.message


def test_weight_looks_at_everything_that_is_counted() -> None:
    call = Message("assistant", "ab", thinking="cd", tool_calls=(CALL,))
    result = Message("tool", (TextPart("efg"), ImagePart("x" * 50)), tool_call_id=CALL.id)
    called = len(CALL.arguments) + len(CALL.name)
    assert tokens.weight(asked(call, result)) == 2 + 2 + called + 3 + 50
    named = tokens.weight(asked(Message("user", "ab", name="n" * 70)))
    assert named == 72
    tool = Tool("t", description="d" * 90, parameters={"description": "p" * 80})
    assert tokens.weight(asked(tools=(tool,))) >= 90 + 80
    form = Format("json_schema", "f", {"description": "s" * 60})
    assert tokens.weight(asked(format=form)) >= 60


def test_no_text_of_a_prompt_stands_in_a_repr() -> None:
    assert "moon" not in repr(template.render(asked(USER)))
