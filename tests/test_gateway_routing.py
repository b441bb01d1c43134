"""Where requests go, through the real gateway: to their cache, away from trouble, and back."""

import asyncio
import json
import random
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from moongate.app import looking
from moongate.core.errors import UpstreamOverloaded
from moongate.core.events import Event
from moongate.core.ports import Ask, ManualClock
from moongate.core.request import Request
from moongate.route.health import COOL_S, FAULTS_MAX, REST_MAX_S
from moongate.route.prefix import Prefix
from moongate.upstream.prompts import PrefixCache
from moongate.upstream.scripted import ScriptedServer
from routing_kit import WORDS, Pool, config, conversation, pool
from serving_kit import serve

FOUR = ("a", "b", "c", "d")
KEYS = """
[[upstreams.credentials]]
name = "one"
api_key_env = "KEY_ONE"

[[upstreams.credentials]]
name = "two"
api_key_env = "KEY_TWO"

[[upstreams.credentials]]
name = "acme"
api_key_env = "KEY_ACME"
accounts = ["acme"]
"""
SECRETS = {"KEY_ONE": "sk-one", "KEY_TWO": "sk-two", "KEY_ACME": "sk-acme"}


async def break_in(around: Pool, name: str) -> None:
    """Have ``name`` fail until it is ejected: by conversations that are at home there."""
    around.scripts[name] = "status 500"
    for at in range(200):
        if not around.served.app.health.alive(name):
            return
        await around.say(f"Trouble {at}?", system="Break.")
    raise AssertionError("it was never ejected")


@pytest.mark.parametrize("order", ["listed", "weighted", "latency", "cost"])
async def test_a_conversation_stays_leaves_on_failure_and_returns(
    tmp_path: Path, order: str
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    clock = ManualClock()
    async with pool(tmp_path, *FOUR, order=order, clock=clock) as around:
        talks = {word: [f"Tell me of {word}."] for word in WORDS}
        homes = {word: await around.say(*talk) for word, talk in talks.items()}
        assert order == "listed" or len(set(homes.values())) > 1
        for _ in range(12):
            word = dice.choice(WORDS)
            talks[word] += ["Io.", f"More, {dice.random()}."]
            assert await around.say(*talks[word]) == homes[word]
        assert any('kind="prefix"' in labels for labels in around.metric("moongate_routed_total"))
        broken = homes[word]
        around.scripts[broken] = "status 500"
        for _ in range(FAULTS_MAX):
            talks[word] += ["Io.", f"More, {dice.random()}."]
            assert await around.say(*talks[word]) != broken
        asked = around.asked(broken)
        guest = await around.say(*talks[word], "Io.", "Where?")
        assert (guest != broken, around.asked(broken)) == (True, asked)
        around.scripts[broken] = "text Io."
        clock.advance(COOL_S + 1)
        talks[word] += ["Io.", "Back?"]
        assert await around.say(*talks[word]) == broken
        assert await around.say(*talks[word], "Io.", "And now?") == broken


async def test_a_cache_key_holds_together_what_begins_differently(tmp_path: Path) -> None:
    async with pool(tmp_path, *FOUR) as around:
        seen: dict[str, set[str]] = {}
        for at in range(12):
            for key in WORDS[:4]:
                body = conversation(f"{key} {at}", system=f"{at}") | {"prompt_cache_key": key}
                reply = await around.served.post(body)
                seen.setdefault(key, set()).add(reply.headers["x-moongate-upstream"])
        assert all(len(names) == 1 for names in seen.values())
        free = {await around.say(f"{word} {at}") for word in WORDS for at in range(3)}
        assert len(free) > 1


async def test_it_is_the_credential_that_a_conversation_sticks_to(tmp_path: Path) -> None:
    async with pool(tmp_path, "a", upstream=KEYS, env=SECRETS) as around:
        used: dict[str, set[str]] = {}
        for turn in range(3):
            for word in WORDS * 2:
                talk = [f"Tell me of {word}.", *["Io.", "More."] * turn]
                assert await around.say(*talk) == "a"
                sent = around.servers["a"].requests[-1]
                used.setdefault(word, set()).add(sent.headers["authorization"])
        assert all(len(keys) == 1 for keys in used.values())
        assert set.union(*used.values()) == {"Bearer sk-one", "Bearer sk-two"}
        _, own = await around.served.app.keys.create(account="acme", name="n")
        await around.served.app.store.credit("acme", 10**9, "topup", "t", 1)
        for word in WORDS:
            await around.say(f"Tell me of {word}.", key=own)
            assert around.servers["a"].requests[-1].headers["authorization"] == "Bearer sk-acme"
        rows = await around.served.usage()
        assert {row.upstream for row in rows} == {"a"}
        shown = around.served.log.getvalue() + around.served.app.metrics.text().decode()
        assert not [secret for secret in ("a/one", "a/two", "sk-") if secret in shown]
        await around.served.sound()


async def test_an_account_without_a_credential_has_no_way(tmp_path: Path) -> None:
    only = KEYS[KEYS.rindex("[[") :]
    async with pool(tmp_path, "a", upstream=only, env=SECRETS) as around:
        reply = await around.served.post(conversation("Io?"))
        assert (reply.status, (await reply.json())["error"]["code"]) == (
            403, "insufficient_permissions",
        )  # fmt: skip
        assert around.asked("a") == 0


async def test_health_is_the_credentials_own(tmp_path: Path) -> None:
    async with pool(tmp_path, "a", upstream=KEYS, env=SECRETS) as around:
        real = around.servers["a"]._allowed
        around.servers["a"]._allowed = lambda request: (  # type: ignore[method-assign]  # one key is refused
            request.headers["authorization"] != "Bearer sk-one" and real(request)
        )
        for at in range(30):
            await around.say(f"Question {at}?")
        health = around.served.app.health
        assert (health.alive("a/one"), health.alive("a/two")) == (False, True)
        assert around.metric("moongate_ejections_total") == {'{upstream="a"}': 1.0}


async def test_an_ejected_one_gets_one_trial_at_a_time(tmp_path: Path) -> None:
    clock = ManualClock()
    async with pool(tmp_path, "a", "b", order="listed", clock=clock) as around:
        await break_in(around, "a")
        assert "upstream_ejected" in around.served.log.getvalue()
        asked = around.asked("a")
        assert {await around.say(f"Rest {at}?") for at in range(5)} == {"b"}
        assert around.asked("a") == asked
        clock.advance(COOL_S + 1)
        around.scripts["a"] = "hold 0.3\nstatus 500"
        trials = await asyncio.gather(*(around.say(f"Trial {at}?") for at in range(6)))
        assert (set(trials), around.asked("a")) == ({"b"}, asked + 1)
        clock.advance(COOL_S + 1)  # the second ejection lasts twice as long
        assert await around.say("Still?") == "b"
        assert around.asked("a") == asked + 1
        around.scripts["a"] = "text Io."
        clock.advance(COOL_S)
        assert await around.say("Now?") == "a"
        assert around.metric("moongate_ejections_total") == {'{upstream="a"}': 2.0}


async def test_limits_of_an_upstream_eject_nobody(tmp_path: Path) -> None:
    clock = ManualClock()
    async with pool(tmp_path, "a", "b", order="listed", clock=clock) as around:
        around.scripts["a"] = "status 429"
        for at in range(FAULTS_MAX + 2):
            assert await around.say(f"Much {at}?") == "b"
            clock.advance(REST_MAX_S)
        assert around.asked("a") == FAULTS_MAX + 2
        around.scripts["a"] = "text Io."
        assert await around.say("And now?") == "a"
        assert around.metric("moongate_ejections_total") == {}


async def test_a_late_first_token_ejects_while_another_is_quick(tmp_path: Path) -> None:
    async with pool(
        tmp_path, "a", "b", order="listed", upstream="first_token_slow_s = 0.03"
    ) as around:
        around.scripts["a"] = "delay 0.06\ntext Io."
        names = [await around.say(f"Question {at}?") for at in range(FAULTS_MAX + 2)]
        assert names == ["a"] * FAULTS_MAX + ["b"] * 2


async def test_retries_have_a_budget(tmp_path: Path) -> None:
    async with pool(tmp_path, *FOUR) as around:
        for name in FOUR:
            around.scripts[name] = "status 500"
        for at in range(40):
            reply = await around.served.post(conversation(f"Question {at}?"))
            assert reply.status == 502
        sent = sum(around.asked(name) for name in FOUR)
        assert 40 < sent <= 50  # ten in any case, and a fifth of the requests
        assert around.metric("moongate_retries_total") == {
            '{kind="sent"}': sent - 40.0, '{kind="over_budget"}': 80.0 - sent,
        }  # fmt: skip
        await around.served.sound()


async def test_a_full_one_is_passed_over_and_gone_back_to(tmp_path: Path) -> None:
    async with pool(tmp_path, *FOUR, upstream="concurrency_max = 1") as around:
        home = await around.say("Io?")
        around.scripts[home] = "text a\ndelay 0.5\ntext b"
        first = asyncio.create_task(around.say("Io?", "Io.", "Long?"))
        await around.servers[home].until(lambda: around.servers[home].streams_open == 1)
        assert await around.say("Io?", "Io.", "Short?") != home
        assert await first == home
        assert await around.say("Io?", "Io.", "Again?") == home


async def test_one_that_asks_for_a_rest_gets_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with pool(tmp_path, "a", "b", order="listed", clock=clock) as around:
        around.scripts["a"] = "error 429 engine_overloaded_error retry-after=7 Overloaded"
        assert await around.say("Io?") == "b"
        asked = around.asked("a")
        assert await around.say("Europa?") == "b"
        assert around.asked("a") == asked
        around.scripts["a"] = "text Io."
        clock.advance(8)
        assert await around.say("Titan?") == "a"


async def test_a_draining_one_is_left_and_gone_back_to(tmp_path: Path) -> None:
    drained = 'draining = true\nregion = "NAME"'
    async with pool(tmp_path, "a", upstream=drained) as around:
        assert await around.say("Io?") == "a"  # nobody else is there
    async with pool(tmp_path / "home", *FOUR) as around:
        home = await around.say("Io?")
        around.served.app.health.drain(home)
        assert await around.say("Io?", "Io.", "More?") != home
        around.served.app.health.drain(home, on=False)
        assert await around.say("Io?", "Io.", "More?", "Io.", "And?") == home


async def test_the_cheapest_come_first_and_share(tmp_path: Path) -> None:
    costs = {"a": "0.50", "b": "0.20", "c": "0.20"}
    async with pool(tmp_path, *costs, order="cost", targets=costs) as around:
        assert {await around.say(f"Question {at}?") for at in range(20)} == {"b", "c"}
        for name in ("b", "c"):
            await break_in(around, name)
        assert await around.say("And now?") == "a"


async def test_the_quickest_comes_first_once_all_are_known(tmp_path: Path) -> None:
    async with pool(tmp_path, "a", "b", order="latency") as around:
        around.scripts["a"] = "delay 0.1\ntext Io."
        names = [await around.say(f"Question {at}?") for at in range(30)]
        assert 1 <= names.count("a") <= 6
        assert set(names[15:]) == {"b"}


async def test_weights_share_what_is_new(tmp_path: Path) -> None:
    weights = {"a": 9, "b": 1}
    async with pool(tmp_path, *weights, targets=weights) as around:
        names = [await around.say("Io?", system=f"System {at}.") for at in range(60)]
        assert names.count("a") > 3 * names.count("b")


async def test_no_organisation_gains_by_what_another_sent(tmp_path: Path) -> None:
    async with pool(tmp_path, *FOUR) as around:
        await around.say("Io?")
        mine = len(around.served.app.router.affinity)
        _, other = await around.served.app.keys.create(account="other", name="n")
        await around.served.app.store.credit("other", 10**9, "topup", "t", 1)
        await around.say("Io?", key=other)
        assert len(around.served.app.router.affinity) == 2 * mine
        reasons = around.metric("moongate_routed_total")
        assert {labels.split('kind="')[1].split('"')[0] for labels in reasons} == {"new"}


async def test_two_gateways_that_share_nothing_but_the_pepper_agree(tmp_path: Path) -> None:
    async with pool(tmp_path / "one", *FOUR) as one:
        said = {word: await one.say(f"Tell me of {word}.") for word in WORDS * 3}
        pepper = one.served.app.home.pepper_file.read_bytes()
    home = tmp_path / "two" / "home" / "secrets"
    home.mkdir(parents=True, mode=0o700)
    (home / "pepper").write_bytes(pepper)
    (home / "pepper").chmod(0o600)
    async with pool(tmp_path / "two", *FOUR) as two:
        again = {word: await two.say(f"Tell me of {word}.", "Io.", "More.") for word in WORDS}
    assert {word: said[word] for word in WORDS} == again
    assert len(set(again.values())) > 1


async def test_a_look_that_goes_well_brings_the_trial_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path, "a", "b", order="listed", clock=ManualClock()) as around:
        await break_in(around, "a")
        around.scripts["a"] = "text Io."
        assert await around.say("Still?") == "b"
        monkeypatch.setattr(looking, "COOL_S", 0.01)
        chore = asyncio.create_task(
            looking.look_again(around.served.app.router, around.served.app.upstreams)
        )
        async with asyncio.timeout(5):
            while not around.served.app.health.alive("a"):
                await asyncio.sleep(0.01)
        chore.cancel()
        assert await around.say("Now?") == "a"


async def test_a_large_prompt_is_hashed_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moongate.admission.BESIDE", 100_000)
    async with pool(tmp_path, "a") as around:
        hashed: list[bool] = []
        real = around.served.app.router.prefix

        def watched(tenant: str, request: Request) -> Prefix:
            hashed.append(threading.current_thread() is threading.main_thread())
            return real(tenant, request)

        around.served.app.router.prefix = watched  # type: ignore[method-assign]  # it is watched
        await around.say("Io?")
        await around.say("Io " * 40_000)
        assert hashed == [True, False]


@pytest.mark.parametrize(("policies", "served"), [({"b": "none"}, False), ({"a": "none"}, True)])
async def test_a_head_that_is_out_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policies: dict[str, str], served: bool
) -> None:
    """What a stream's head says of the data policy holds for whoever answers in the end."""
    monkeypatch.setattr("moongate.delivery.SILENCE_S", 0.02)
    monkeypatch.setattr("moongate.delivery._PULSE_S", 0.02)
    async with pool(tmp_path, "a", "b", order="listed", policies=policies) as around:
        around.scripts["a"] = "hold 0.4\nstatus 500"
        reply = await around.served.post(conversation("Io?", stream=True))
        assert around.asked("b") == 0
        assert reply.headers["x-moongate-data-policy"] == policies.get("a", "self-hosted")
        assert (b"[DONE]" in await reply.read()) is served
        assert around.asked("b") == served
        await around.served.sound()


@pytest.mark.parametrize("kind", ["full", "queue_full", "queue_wait"])
async def test_our_own_queue_says_nothing_of_an_upstreams_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with pool(tmp_path, "a") as around:

        async def busy(ask: Ask) -> AsyncGenerator[list[Event], None]:
            del ask
            raise UpstreamOverloaded(kind, retry_after_s=5)
            yield []

        monkeypatch.setattr(around.served.app.upstreams["a"], "stream", busy)
        for at in range(FAULTS_MAX):
            assert (await around.served.post(conversation(f"Question {at}?"))).status == 503
        assert around.served.app.health.alive("a")
        assert around.metric("moongate_ejections_total") == {}


async def test_the_log_names_upstreams_and_not_our_keys_there(tmp_path: Path) -> None:
    leaky = PrefixCache(salted=False)
    async with ScriptedServer("text Io.", cache=leaky, models=("k",)) as server:
        text = config({"a": server.base_url}, "listed", KEYS, {}, "", {})
        text = text.replace("cache_probe = false\n", "")
        async with serve(tmp_path, text, env=SECRETS) as served:
            assert (await served.post(conversation("Io?"))).status == 502
            told = [json.loads(line) for line in served.log.getvalue().splitlines()]
    found = {one["upstream"] for one in told if one["event"] == "cache_shared"}
    assert found == {"a"}
