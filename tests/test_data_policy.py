"""What `/v1/data-policy` says, held against the code that it speaks of."""

import json
import re
from pathlib import Path
from typing import Any

import apsw
import pytest

from moongate.log import FIELDS
from moongate.metrics import Metrics
from moongate.privacy.kept import TABLES
from moongate.privacy.policy import digest
from moongate.store.opening import prepare as prepare_sqlite
from moongate.store.statements import read_migrations
from moongate.upstream.scripted import ScriptedServer
from search_kit import BUILTIN, config, engine
from serving_kit import Served, ask, serve

AGREED = """
[search.agreement]
title = "Search DPA"
effective = "2026-03-01"
statements = ["queries are not retained"]
"""


async def told(served: Served) -> Any:
    """The policy, as anybody reads it."""
    async with served.http.get(f"{served.url}/data-policy") as reply:
        assert reply.status == 200
        return json.loads(await reply.text())


async def policy_of(tmp_path: Path, text: str) -> Any:
    async with serve(tmp_path, text) as served:
        return await told(served)


def test_every_column_that_a_store_has_is_told_and_no_other(tmp_path: Path) -> None:
    prepare_sqlite(tmp_path / "a.db")
    db = apsw.Connection(str(tmp_path / "a.db"))
    names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    stored = {
        table: {row[1] for row in db.execute(f"PRAGMA table_xinfo({table})")}
        for (table,) in db.execute(names).fetchall()
    }
    db.close()
    for table in ("api_key", "usage"):
        stored[table].add("n")  # PostgreSQL's number of a row; SQLite has its rowid
    for script in read_migrations("postgres").values():
        for table, inside in re.findall(r"UNLOGGED TABLE (\w+) \(((?:\n .*)*)", script):
            stored[table] = set(re.findall(r"^    ([a-z_]+) ", inside, re.MULTILINE))
    said = {table.table: set(table.columns) for table in TABLES}
    assert said == stored
    assert "body" not in {column for columns in said.values() for column in columns}


async def test_the_labels_and_fields_are_those_of_metrics_and_log(tmp_path: Path) -> None:
    policy = await policy_of(tmp_path, config("http://127.0.0.1:9/v1", "http://127.0.0.1:9"))
    assert policy["kept"]["log_fields"] == FIELDS
    made = Metrics()
    labels = {
        label
        for collector in {*made.registry._collector_to_names}
        for label in getattr(collector, "_labelnames", ())
    }
    assert set(policy["kept"]["metric_labels"]) == labels


async def test_nobody_needs_a_key_and_the_hash_tells_a_change(tmp_path: Path) -> None:
    text = config("http://127.0.0.1:9/v1", "http://127.0.0.1:9")
    first = await policy_of(tmp_path / "a", text)
    again = await policy_of(tmp_path / "b", text)
    assert first == again
    assert first.pop("hash") == digest(first)
    changed = await policy_of(tmp_path / "c", text + '[operator]\nname = "Moon & Sons"\n')
    assert changed["operator"]["name"] == "Moon & Sons"
    assert changed["hash"] != again["hash"]


@pytest.mark.parametrize(
    ("mine", "more", "engine_says"),
    [
        ("", "", ("none", True, False)),
        ("self-hosted", 'data_policy = "self-hosted"\n', ("self-hosted", True, True)),
        ("self-hosted", f'data_policy = "contract"\n{AGREED}', ("contract", True, True)),
        ("self-hosted", '[privacy]\nrequire = "self-hosted"\n', ("none", False, False)),
    ],
)
async def test_it_says_of_zero_retention_what_a_key_that_demands_it_meets(
    tmp_path: Path, mine: str, more: str, engine_says: tuple[str, bool, bool]
) -> None:
    async with engine() as web, ScriptedServer("text Hm.") as upstream:
        text = config(upstream.base_url, web.url)
        if mine:
            text = text.replace('kind = "vllm"\n', f'kind = "vllm"\ndata_policy = "{mine}"\n', 1)
        async with serve(tmp_path, text + more) as served:
            policy = await told(served)
            (place,), (model,), (searcher,) = (
                policy["upstreams"], policy["models"], policy["search"],
            )  # fmt: skip
            assert (place["name"], place["data_policy"]) == ("vllm", mine or "none")
            assert (model["id"], model["upstreams"]) == ("kimi-k2.5", ["vllm"])
            assert model["data_policy"] == place["data_policy"]
            assert place["zero_retention"] is model["zero_retention"] is bool(mine)
            said = searcher["data_policy"], searcher["allowed"], searcher["zero_retention"]
            assert said == engine_says
            # The very requests of which it speaks.
            plain = {"authorization": f"Bearer {served.key}"}
            _, secret = await served.app.keys.create(
                account="default", name="z", zero_retention=True
            )
            demanding = {"authorization": f"Bearer {secret}"}
            for head, allowed in ((plain, said[1]), (demanding, said[2])):
                alone = {"json": {"query": "x"}, "headers": head}
                async with served.http.post(f"{served.url}/search", **alone) as answer:
                    assert (answer.status == 200) == allowed
                    assert answer.status in (200, 403)
            answer = await served.post(ask(), **demanding)
            assert (answer.status == 200) == model["zero_retention"]
            answer = await served.post(ask(tools=[BUILTIN]), **demanding)
            assert (answer.status == 200) == (model["zero_retention"] and said[2])


async def test_an_agreement_is_shown_and_no_secret_or_address_is(tmp_path: Path) -> None:
    text = config("http://inner.invalid/v1", "http://engine.invalid").replace(
        'kind = "vllm"\n', 'kind = "vllm"\ndata_policy = "contract"\napi_key_env = "CANARY"\n', 1
    )
    held = '\n[upstreams.agreement]\ntitle = "ESA"\neffective = "2026-02-10"\nstatements = ["s"]\n'
    text = text.replace("\n[[models]]", f"{held}\n[[models]]", 1)
    async with serve(tmp_path, text, env={"CANARY": "sk-canary"}) as served:
        policy = await told(served)
    (place,) = policy["upstreams"]
    assert place["agreement"] == {
        "title": "ESA", "effective": "2026-02-10", "statements": ["s"], "document": "",
    }  # fmt: skip
    assert place["zero_retention"] is False  # its statements do not promise it
    for secret in ("canary", "CANARY", "invalid"):
        assert secret not in json.dumps(policy)


async def test_the_maker_searches_under_the_policy_of_its_upstream(tmp_path: Path) -> None:
    text = config("http://127.0.0.1:9/v1", "", kind="moonshot", name="moonshot")
    policy = await policy_of(tmp_path, text)
    (searcher,) = policy["search"]
    assert (searcher["engine"], searcher["upstream"]) == ("moonshot", "moonshot")
    assert (searcher["data_policy"], searcher["zero_retention"]) == ("none", False)
    assert searcher["reads_pages"] is False


async def test_what_lies_in_memory_is_told_where_it_does(tmp_path: Path) -> None:
    text = config("http://127.0.0.1:9/v1", "http://127.0.0.1:9")
    usual = await policy_of(tmp_path / "a", text)
    bare = await policy_of(tmp_path / "b", text + "[media]\nfetch = false\nfiles_max = 0\n")
    assert len(usual["memory"]) == len(bare["memory"]) + 2
    (files,) = [one for one in usual["memory"] if one["what"].startswith("uploaded")]
    assert (files["seconds_max"], files["bytes_max"]) == (3600, 536_870_912)
    for one in usual["memory"]:
        assert one["seconds_max"] <= 3660
        assert one["bytes_max"] or one["entries_max"]
