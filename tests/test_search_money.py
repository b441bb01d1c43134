"""Money and time around a search: held before, forgiven on failure, the written rule at a cut."""

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from moongate.cli import run
from moongate.core.money import Usage
from moongate.upstream.prompts import rounds
from moongate.upstream.scripted import ScriptedServer
from search_kit import BUILTIN, SEARCH_NANOS, bodies, call, config, engine, told
from serving_kit import Served, ask, serve

ROUND = "usage prompt=100 completion=10 at=top\n"
ONE = f"{call('moons')}{ROUND}---\ntext Two moons.\n{ROUND}"
ROUND_NANOS = 100 * 480 + 10 * 2000


async def post(served: Served, **more: Any) -> tuple[int, Any]:
    answer = await served.post(ask(tools=[BUILTIN], **more))
    return answer.status, await answer.json()


async def test_a_fee_that_cannot_be_held_ends_the_answer_before_the_search(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(ONE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        await served.leave_in_wallet(SEARCH_NANOS)  # it pays for the prompt and some output
        status, got = await post(served, max_completion_tokens=200)
        assert (status, got["choices"][0]["finish_reason"]) == (200, "length")
        assert got["usage"]["cost_nanos"] == ROUND_NANOS
        assert (got["usage"]["searches"], web.asked) == (0, [])
        (row,) = await served.rows(1)
        assert (row.outcome, row.charge_nanos) == ("credit_stop", ROUND_NANOS)
        await served.sound()


async def test_a_round_that_cannot_be_held_is_not_asked_for(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(ONE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        await served.leave_in_wallet(SEARCH_NANOS + 1_200_000)
        status, got = await post(served, max_completion_tokens=200)
        assert (status, got["choices"][0]["finish_reason"]) == (200, "length")
        assert (got["usage"]["searches"], len(web.asked)) == (1, 1)
        assert got["usage"]["cost_nanos"] == ROUND_NANOS + SEARCH_NANOS
        assert len(bodies(upstream)) == 1
        await served.sound()


async def test_everything_that_runs_is_held_first(tmp_path: Path) -> None:
    held: list[int] = []

    async with (
        engine() as web,
        ScriptedServer(rounds(ONE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        finding = served.app.searches.finding
        assert finding is not None
        find = finding.engine.find

        async def watched(query: str, results_max: int) -> Any:
            held.append((await served.wallet())[1])
            return await find(query, results_max)

        finding.engine.find = watched  # type: ignore[method-assign]  # looks on the way
        await post(served, max_completion_tokens=100)
        prompt = (await served.rows(1))[0].usage.prompt
        assert held[0] >= SEARCH_NANOS + 100 * 2000 + prompt // 2 * 480
        assert (await served.wallet())[1] == 0


async def test_an_upstream_that_fails_in_the_second_round_voids_all(tmp_path: Path) -> None:
    script = f"{call('moons')}{ROUND}---\nerror 500 server_error Oops"
    async with (
        engine() as web,
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        before = await served.wallet()
        status, got = await post(served)
        assert (status, got["error"]["code"]) == (502, "upstream_error")
        (row,) = await served.rows(1)
        assert (row.charge_nanos, row.usage.searches) == (0, 1)
        assert row.forgiven_nanos == ROUND_NANOS + SEARCH_NANOS
        assert await served.wallet() == before
        await served.sound()


@pytest.mark.parametrize(("at", "searches"), [("search", 0), ("round", 1)])
async def test_leaving_costs_what_was_done(tmp_path: Path, at: str, searches: int) -> None:
    script = f"{call('moons')}{ROUND}---\ntext Two\ndelay 30\ntext moons."
    async with (
        engine(trouble="slow" if at == "search" else "") as web,
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        asking = asyncio.create_task(post(served))
        async with asyncio.timeout(10):
            while not (len(web.asked) if at == "search" else len(bodies(upstream)) > 1):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        asking.cancel()
        (row,) = await served.rows(1)
        assert (row.outcome, row.usage.searches) == ("client_left", searches)
        assert row.charge_nanos == (
            row.usage.prompt * 480 + row.usage.output * 2000 + searches * SEARCH_NANOS
        )
        more = row.usage.prompt > 100 and row.usage.output == 11
        assert (row.usage.prompt, row.usage.output) == (100, 10) if at == "search" else more
        await served.quiet()
        await served.sound()


async def test_a_silent_upstream_is_counted_round_by_round(tmp_path: Path) -> None:
    script = f"{call('moons')}usage at=none\n---\ntext Two moons.\nusage at=none"
    async with (
        engine() as web,
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        _, got = await post(served)
        (row,) = await served.rows(1)
        assert row.usage.estimated
        quoted = len(bodies(upstream)[1]["messages"][-1]["content"])
        assert row.usage.prompt > quoted // 4  # the second round's prompt counts
        assert row.usage.output >= 3  # the call that nobody saw, and the answer
        assert got["usage"]["cost_nanos"] == row.charge_nanos


async def test_calls_of_both_kinds_go_to_the_client_alone(tmp_path: Path) -> None:
    script = 'tool web_search {"query":"x"}\ntool get_time {}\nfinish tool_calls\n' + ROUND
    time = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
    async with (
        engine() as web,
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        answer = await served.post(ask(tools=[BUILTIN, time]))
        (choice,) = (await answer.json())["choices"]
        (made,) = choice["message"]["tool_calls"]
        assert (made["function"]["name"], choice["finish_reason"]) == ("get_time", "tool_calls")
        assert (web.asked, len(bodies(upstream))) == ([], 1)


async def test_no_more_than_three_rounds_search(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(call("again") + ROUND) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        status, got = await post(served)
        (choice,) = got["choices"]
        assert (status, choice["finish_reason"]) == (200, "stop")
        assert "tool_calls" not in choice["message"]
        assert (len(web.asked), got["usage"]["searches"], len(bodies(upstream))) == (3, 3, 4)
        last = bodies(upstream)[-1]
        assert last["tool_choice"] == "none"
        assert "answer with what you have" in told(last["messages"][-1])["limit"]


async def test_the_cap_holds_over_all_rounds(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(ONE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        await post(served, max_completion_tokens=64)
        caps = [body["max_completion_tokens"] for body in bodies(upstream)]
        assert caps == [64, 54]
        _, got = await post(served, max_completion_tokens=10)
        assert got["choices"][0]["finish_reason"] == "length"


async def test_only_the_last_round_is_held_to_the_format(tmp_path: Path) -> None:
    script = f'text Let me look.\n{call("moons")}{ROUND}---\ntext "{{\\"moons\\": [1]}}"\n{ROUND}'
    async with (
        engine() as web,
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        _, got = await post(served, response_format={"type": "json_object"})
        message = got["choices"][0]["message"]
        assert message["content"] == '{"moons": [1]}'
        places = [note["url_citation"]["end_index"] for note in message["annotations"]]
        assert places == [0, 0]  # sources, and no place within the JSON
        assert got["usage"].get("attempts") is None


async def test_words_between_rounds_stand_apart(tmp_path: Path) -> None:
    script = f"text Let me look.\n{call('moons')}{ROUND}---\ntext Two [1].\n{ROUND}"
    async with (
        engine() as web,
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        _, got = await post(served)
        message = got["choices"][0]["message"]
        assert message["content"] == "Let me look.\n\nTwo [1]."
        (note,) = message["annotations"]
        place = note["url_citation"]
        assert message["content"][place["start_index"] : place["end_index"]] == "[1]"
        assert bodies(upstream)[1]["messages"][1]["content"] == "Let me look."


async def test_usage_row_adds_up_over_rounds(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(ONE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        await post(served)
        (row,) = await served.rows(1)
        assert row.usage == Usage(200, 0, 20, searches=1, reasoning=row.usage.reasoning)


async def test_a_named_search_forces_the_first_round_alone(tmp_path: Path) -> None:
    choice = {"type": "builtin_function", "function": {"name": "$web_search"}}
    off = {"type": "disabled"}
    async with (
        engine() as web,
        ScriptedServer(rounds(ONE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        _, got = await post(served, tool_choice=choice, thinking=off)
        assert got["choices"][0]["message"]["content"] == "Two moons."
        first, second = bodies(upstream)
        assert first["tool_choice"] == {"type": "function", "function": {"name": "web_search"}}
        assert "tool_choice" not in second


async def test_where_no_tool_may_be_called_nothing_is_searched(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(f"text Two.\n{call('moons')}{ROUND}") as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        status, got = await post(served, tool_choice="none")
        assert status == 200
        assert "tool_calls" not in got["choices"][0]["message"]
        assert (web.asked, got["usage"]["searches"]) == ([], 0)


async def test_searches_of_statement_and_usage_are_the_ledgers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def said(*words: str) -> str:
        home = ("--home", str(tmp_path / "home"))
        assert await asyncio.to_thread(run, [*words, *home]) == 0
        return capsys.readouterr().out

    async with (
        engine() as web,
        ScriptedServer(rounds(ONE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        head = {"authorization": f"Bearer {served.key}"}
        assert (await post(served))[1]["usage"]["searches"] == 1
        alone = {"json": {"query": "moons"}, "headers": head}
        for trouble, status in (("", 200), ("500", 502), ("", 200)):
            web.trouble = trouble
            async with served.http.post(f"{served.url}/search", **alone) as answer:
                assert answer.status == status
        rows = await served.rows(4)
        searches = sum(row.usage.searches for row in rows)
        assert (searches, len(web.asked)) == (3, 4)
        money = sum(row.charge_nanos for row in rows)
        assert money == 2 * ROUND_NANOS + 3 * SEARCH_NANOS
        assert await served.wallet() == (5 * 10**9 - money, 0)

        for each in ((), ("--each",)):
            told = json.loads(await said("statement", "--json", *each))
            assert sum(line["searches"] for line in told["data"]) == searches
            assert (told["total"]["searches"], told["total"]["charge_nanos"]) == (searches, money)
            assert told["total"]["due_nanos"] == money
            *lines, total = csv.DictReader(
                io.StringIO(await said("statement", "--format=csv", *each))
            )
            assert sum(int(line["searches"]) for line in lines) == searches
            assert int(total["searches"]) == searches
        lines = (await said("statement")).splitlines()
        column = lines[0].split().index("Searches")
        assert lines[-1].split()[column - lines[0].split().index("Requests") + 1] == str(searches)
        async with served.http.get(f"{served.url}/usage", headers=head) as answer:
            usage = await answer.json()
        assert (usage["total"]["searches"], usage["total"]["charge_nanos"]) == (searches, money)
        await served.sound()
