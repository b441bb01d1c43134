"""The engine's prompt cache: what it keeps and for whom, how long, and when it says so.

Kimi's architecture, tiny, random weights: a letter is a token, so counts are known exactly.
"""

import asyncio
import itertools

import pytest
import pytest_asyncio

import tiny_kimi
from engine_kit import ask, ask_for, request, running
from moongate.core.request import Message, Request
from moongate.upstream import embedded, engine_slots
from moongate.upstream.engine_slots import CACHED_TOKENS_MIN, RESTING

pytestmark = pytest.mark.asyncio(loop_scope="module")

AROUND = 20
"""Tokens of the template around one short question."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "tiny-kimi.gguf"
    tiny_kimi.write(path)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model):
    async with running(home=model.parent, model=model, slots=2) as engine:
        yield engine


def letters(count, word):
    return (word * count)[:count]


async def cached(engine, text, tenant="org-a"):
    asked = text if isinstance(text, Request) else request(text)
    return (await ask(engine, asked, cap=1, tenant=tenant)).counts.cached


async def test_a_prompt_of_256_tokens_is_no_hit_and_one_of_257_is(engine):
    for tokens, hit in ((CACHED_TOKENS_MIN, 0), (CACHED_TOKENS_MIN + 1, CACHED_TOKENS_MIN)):
        asked = request(letters(tokens - AROUND, f"{tokens} "))
        assert await engine.count(asked) == tokens
        assert [await cached(engine, asked, "t") for _ in range(2)] == [0, hit]


async def test_a_short_system_prompt_is_no_hit_however_long_the_questions(engine):
    def asked(system, question):
        text = letters(400, question)
        return Request(model="k", messages=(Message("system", system), Message("user", text)))

    short, long = letters(200, "short "), letters(300, "long ")
    assert [await cached(engine, asked(short, word), "s") for word in ("one ", "two ")] == [0, 0]
    first, second = [await cached(engine, asked(long, word), "l") for word in ("one ", "two ")]
    assert first == 0
    assert 300 < second < 330


async def test_more_conversations_are_kept_than_answers_are_made_at_once(engine):
    said = {name: letters(400, f"{name} asks ") for name in "abcdef"}
    assert len(said) > 2
    for name, text in said.items():
        assert await cached(engine, text, tenant=name if name in "ab" else "org") == 0
    for name, text in said.items():
        found = await cached(engine, f"{text} more", tenant=name if name in "ab" else "org")
        assert found > 400, name


async def test_each_round_of_a_conversation_finds_the_last_one(engine):
    messages = [Message("user", letters(300, "first question "))]
    counts = []
    for _ in range(3):
        heard = await ask(engine, Request(model="k", messages=tuple(messages)), cap=4, tenant="c")
        counts.append(heard.counts)
        messages += [Message("assistant", "so it is"), Message("user", letters(100, "and then? "))]
    for before, after in itertools.pairwise(counts):
        # All but the words that open an answer.
        assert before.prompt - 12 <= after.cached <= before.prompt


async def test_what_was_used_longest_ago_makes_room(model):
    async with running(home=model.parent, model=model, slots=1, cache_tokens=1000) as engine:
        said = {word: letters(400, f"{word} ") for word in ("one", "two", "three", "four")}
        for word in ("one", "two", "one", "three", "four"):  # 1,260 rest when the last comes
            await cached(engine, said[word])
        assert engine.cached_tokens <= 3 * 430
        assert await cached(engine, f"{said['one']} more") > 400, "used after the second"
        assert await cached(engine, f"{said['three']} more") > 400
        assert await cached(engine, f"{said['two']} more") == 0


async def test_nothing_is_kept_where_the_operator_says_so(model):
    async with running(home=model.parent, model=model, slots=1, cache_tokens=0) as engine:
        text = letters(400, "again ")
        assert await cached(engine, text, "a") == 0
        assert await cached(engine, letters(400, "other "), "b") == 0
        assert await cached(engine, text, "a") == 0


async def test_what_is_at_work_gets_its_room_from_what_rests(tmp_path):
    """More is asked for than the engine holds: the kept goes, every answer comes."""
    path = tmp_path / "small.gguf"
    tiny_kimi.write(path, window=1024)
    async with running(home=tmp_path, model=path, slots=2, cache_tokens=2048) as engine:
        assert engine.facts().window == 1024
        for at in range(2):
            await cached(engine, letters(900, f"kept {at} "), f"t{at}")
        assert engine.cached_tokens > 1800
        long = [request(letters(700, f"long {at} ")) for at in range(2)]
        heard = await asyncio.gather(*(ask(engine, one, cap=300, tenant="w") for one in long))
        assert all(one.counts.prompt > 700 for one in heard)
        assert engine.cached_tokens <= 2048


async def test_what_nobody_used_for_an_hour_is_erased(model, monkeypatch):
    monkeypatch.setattr(engine_slots, "LIFETIME_S", 0.05)
    monkeypatch.setattr(embedded, "EXPIRY_S", 0.1)
    async with running(home=model.parent, model=model, slots=1) as engine:
        text = letters(400, "old ")
        await cached(engine, text)
        assert engine.cached_tokens > 400
        async with asyncio.timeout(10):
            while engine.cached_tokens:
                await asyncio.sleep(0.02)
        assert await cached(engine, text) == 0


async def test_no_organisation_ever_meets_anothers_prompt_in_many_hands(engine):
    """More organisations than slots, all with one prompt, in every order of hand-over."""
    asked = request(letters(500, "the very same words for everybody "))
    tenants = [f"o{at}" for at in range(2 + RESTING + 4)]
    for tenant in tenants:
        assert await cached(engine, asked, tenant) == 0
    assert await cached(engine, asked, tenants[-1]) > 400
    assert await cached(engine, asked, tenants[0]) == 0, "pushed out, and not found elsewhere"


async def test_an_answer_that_was_left_counts_as_much_as_it_may_hold(engine):
    asked = request(letters(300, "leave "))
    before = engine.cached_tokens
    stream = engine.stream(ask_for(asked, cap=200, tenant="leaver"))
    await anext(stream)
    await stream.aclose()
    assert engine.cached_tokens - before <= 520
    assert await cached(engine, asked, "stranger") == 0
