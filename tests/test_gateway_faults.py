"""When an upstream fails: the right status, no charge, one retry before the first byte only."""

import asyncio
from pathlib import Path

import pytest

from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, ask, serve

BEFORE = [
    ("error 500 server_error Broken", 502, "upstream_error"),
    ("status 500", 502, "upstream_error"),
    ("error 401 invalid_authentication_error Invalid Authentication", 503, "overloaded"),
    ("error 429 exceeded_current_quota_error Your account is suspended", 503, "overloaded"),
    ("error 429 engine_overloaded_error retry-after=7 Overloaded", 503, "overloaded"),
    ("error 503 server_unavailable retry-after=7 No", 503, "overloaded"),
    ("error 400 content_filter High risk", 400, "content_filter"),
    (
        "error 400 invalid_request_error Your request exceeded model token limit : 262144",
        400,
        "context_length_exceeded",
    ),
    ("error 400 invalid_request_error Something", 400, "rejected_by_model"),
    ("error 404 resource_not_found_error Not found the model", 502, "upstream_error"),
    ("hangup", 502, "upstream_error"),
    ("reply 200 application/json {}", 502, "upstream_error"),
    ("garbage data: {oops\\n\\n", 502, "upstream_error"),
    ("no-done", 502, "upstream_error"),
]


@pytest.mark.parametrize(("script", "status", "code"), BEFORE)
@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_first_byte_it_is_a_status_and_costs_nothing(
    tmp_path: Path, script: str, status: int, code: str, stream: bool
) -> None:
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(stream=stream))
        assert reply.status == status, await reply.text()
        error = (await reply.json())["error"]
        assert error["code"] == code
        assert "Broken" not in error["message"]
        if "retry-after=7" in script:
            assert reply.headers["retry-after"] == "7"
        assert ("operator_alert" in served.log.getvalue()) == ("401" in script or "quota" in script)
        (row,) = await served.usage()
        assert (row.charge_nanos, row.status) == (0, status)
        assert row.outcome in {"upstream_error", "refused"}
        await served.sound()


@pytest.mark.parametrize("trouble", ["cut", "error-in-stream server_error Oops", "no-done",
                                     "garbage data: {oops\\n\\n"])  # fmt: skip
async def test_after_the_first_byte_it_is_an_error_event_without_an_end(
    tmp_path: Path, trouble: str
) -> None:
    async with (
        ScriptedServer(f"text Io\ndelay 0.05\ntext , Europa\ndelay 0.05\n{trouble}") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(stream=True))
        assert reply.status == 200
        text = await reply.text()
        assert "Io" in text
        assert '"code":"upstream_error"' in text
        assert "[DONE]" not in text
        assert "Oops" not in text
        (row,) = await served.usage()
        assert (row.outcome, row.charge_nanos) == ("upstream_error", 0)
        assert row.forgiven_nanos > 0
        whole = await served.post(ask())
        assert whole.status == 502
        assert len([s for s in scripted.requests if s.method == "POST"]) == 2
        await served.sound()


@pytest.mark.parametrize(
    "trouble", ["error 503 server_unavailable Busy", "error 429 engine_overloaded_error Busy"]
)
async def test_one_retry_before_the_first_byte_and_one_row(tmp_path: Path, trouble: str) -> None:
    async with (
        ScriptedServer(f"{trouble}\n---\ntext Io\nfinish stop") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask())
        assert reply.status == 200, await reply.text()
        assert len([s for s in scripted.requests if s.method == "POST"]) == 2
        (row,) = await served.usage()
        assert row.outcome == "done"
        await served.sound()


async def test_the_next_target_answers_and_is_named(tmp_path: Path) -> None:
    async with ScriptedServer("status 500") as broken, ScriptedServer("text Io") as good:
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=broken.base_url).replace(
            "[[models]]",
            f'[[upstreams]]\nname = "second"\nkind = "vllm"\nbase_url = "{good.base_url}"\n'
            "cache_probe = false\n"
            'data_policy = "self-hosted"\n\n[[models]]',
        )
        config = config.replace(
            'model = "kimi-k2.5" }]', 'model = "kimi-k2.5" }, '
            '{ upstream = "second", model = "moonshotai/Kimi-K2.5" }]',
        )  # fmt: skip
        async with serve(tmp_path, config) as served:
            reply = await served.post(ask())
            assert reply.status == 200, await reply.text()
            assert reply.headers["x-moongate-upstream"] == "second"
            assert reply.headers["x-moongate-data-policy"] == "self-hosted"
            assert good.requests[-1].body["model"] == "moonshotai/Kimi-K2.5"
            (row,) = await served.usage()
            assert (row.upstream, row.outcome) == ("second", "done")
            _, strict = await served.app.keys.create(
                account="default", name="zdr", zero_retention=True
            )
            seen = len(broken.requests)
            private = await served.post(ask(), authorization=f"Bearer {strict}")
            assert private.headers["x-moongate-upstream"] == "second"
            assert len(broken.requests) == seen


async def test_no_route_for_a_key_that_demands_zero_retention(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text Io") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        _, strict = await served.app.keys.create(account="default", name="z", zero_retention=True)
        reply = await served.post(ask(), authorization=f"Bearer {strict}")
        assert (reply.status, (await reply.json())["error"]["code"]) == (403, "no_zdr_route")
        assert [s for s in scripted.requests if s.method == "POST"] == []


async def test_an_upstream_that_is_down_is_502_and_then_left_alone(tmp_path: Path) -> None:
    config = ONE_UPSTREAM.format(kind="moonshot", base_url="http://127.0.0.1:9/v1")
    async with serve(tmp_path, config) as served:
        replies = [await served.post(ask()) for _ in range(3)]
        assert {reply.status for reply in replies} == {502}
        assert not served.app.health.alive("moonshot")
        assert len(await served.usage()) == 3
        await served.sound()
        for _ in range(100):
            if any("cannot be used now" in str(event.get("text")) for event in served.told):
                break
            await asyncio.sleep(0.02)
        assert any("cannot be used now" in str(event.get("text")) for event in served.told)


async def test_the_start_says_when_the_model_is_not_listed(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text Io", models=("kimi-k3",)) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        for _ in range(100):
            notes = [str(event["text"]) for event in served.told if event["event"] == "note"]
            if notes:
                break
            await asyncio.sleep(0.02)
        assert "does not list kimi-k2.5" in notes[0]
        assert "vLLM" in notes[0]


async def test_the_hold_covers_the_cap_of_every_answer(tmp_path: Path) -> None:
    config = ONE_UPSTREAM.replace('id = "kimi-k2.5"', 'id = "free"\nwindow = 8192\nabilities = []')
    config = config.replace("[[models]]", "[[models]]\noutput_tokens_default = 64")
    async with (
        ScriptedServer("silence", rules=False) as scripted,
        serve(tmp_path, config.format(kind="openai", base_url=scripted.base_url)) as served,
    ):
        held = []
        for n in (1, 8):
            body = ask() | {"model": "free", "n": n, "max_tokens": 100}
            visit = asyncio.create_task(served.post(body))
            await scripted.until(lambda: scripted.streams_open == 1)
            held.append((await served.wallet())[1])
            visit.cancel()
            await asyncio.gather(visit, return_exceptions=True)
            await scripted.until(lambda: scripted.streams_open == 0)
            while (await served.wallet())[1]:
                await asyncio.sleep(0.01)
        assert held[1] - held[0] == 7 * 100 * 2000
        await served.sound()


async def test_the_answer_names_who_gave_it_after_a_retry(tmp_path: Path) -> None:
    async with ScriptedServer("status 500") as broken, ScriptedServer("text Io") as good:
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=broken.base_url).replace(
            "[[models]]",
            f'[[upstreams]]\nname = "second"\nkind = "vllm"\nbase_url = "{good.base_url}"\n'
            "cache_probe = false\n"
            "\n[[models]]",
        )
        config = config.replace(
            'model = "kimi-k2.5" }]',
            'model = "kimi-k2.5" }, { upstream = "second", model = "k" }]',
        )
        async with serve(tmp_path, config) as served:
            for stream in (False, True):
                text = await (await served.post(ask(stream=stream))).text()
                prints = {name: served.app.upstreams[name].facts().fingerprint
                          for name in ("moonshot", "second")}  # fmt: skip
                assert prints["second"] in text
                assert prints["moonshot"] not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_garbage_glued_to_a_frame_is_no_complete_answer(tmp_path: Path, stream: bool) -> None:
    script = 'text aa\ngarbage "\\u0000{"\ntext b\nfinish stop'
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        text = await (await served.post(ask(stream=stream))).text()
        assert "[DONE]" not in text
        assert '"upstream_error"' in text
        (row,) = await served.usage()
        assert (row.outcome, row.charge_nanos) == ("upstream_error", 0)
        await served.sound()
