"""A client's own word on the way: for those who may, exact, and never around the data policy."""

from pathlib import Path

import pytest

from moongate.ledger import receipt
from routing_kit import conversation, pool

FOUR = ("a", "b", "c", "d")
MAY = '[routing]\npreferences = ["default"]\n'
HEADERS = ("x-moongate-upstream", "x-moongate-only", "x-moongate-ignore", "x-moongate-order")


@pytest.mark.parametrize("header", HEADERS)
async def test_nobody_may_unless_the_operator_says_so(tmp_path: Path, header: str) -> None:
    async with pool(tmp_path, "a", "b", rest='[routing]\npreferences = ["acme"]\n') as around:
        reply = await around.served.post(conversation("Io?"), **{header: "a"})
        error = (await reply.json())["error"]
        assert (reply.status, error["code"], error["param"]) == (
            403, "insufficient_permissions", header,
        )  # fmt: skip
        assert around.asked("a") + around.asked("b") == 0
        assert await around.served.usage() == []


async def test_wishes_are_granted(tmp_path: Path) -> None:
    async with pool(tmp_path, *FOUR, order="listed", rest=MAY) as around:
        assert await around.say("Io?") == "a"
        assert await around.say("Io?", x_moongate_upstream="c") == "c"
        assert await around.say("Io?", x_moongate_only="d, b") == "b"
        assert await around.say("Io?", x_moongate_ignore="a,b") == "c"
        assert await around.say("Io?", x_moongate_order="d,b") == "d"
        around.scripts["d"] = "status 500"
        assert await around.say("Io?", x_moongate_order="d,b") == "b"
        around.scripts["c"] = "status 500"
        reply = await around.served.post(conversation("Io?"), **{"x-moongate-upstream": "c"})
        assert reply.status == 502  # and nobody else was asked
        assert (await around.served.usage())[-1].upstream == "c"


BAD = [
    ("x-moongate-upstream", "moon", "names an upstream that is not known here"),
    ("x-moongate-upstream", "a,b", "takes one name"),
    ("x-moongate-only", "a,moon", "names an upstream that is not known here"),
    ("x-moongate-only", "", "takes names of upstreams, separated by commas"),
    ("x-moongate-order", "a,,b", "names an upstream that is not known here"),
    ("x-moongate-order", "a;b", "takes names of upstreams, separated by commas"),
    ("x-moongate-order", ",".join(["a"] * 65), "takes at most 64 names"),
    ("x-moongate-ignore", "a,b", "leaves no upstream that serves this model"),
]


@pytest.mark.parametrize(("header", "said", "wrong"), BAD)
async def test_what_cannot_be_granted_is_a_400_that_names_the_header(
    tmp_path: Path, header: str, said: str, wrong: str
) -> None:
    async with pool(tmp_path, "a", "b", rest='[routing]\npreferences = ["*"]\n') as around:
        reply = await around.served.post(conversation("Io?"), **{header: said})
        error = (await reply.json())["error"]
        assert (reply.status, error["code"], error["param"]) == (400, "invalid_value", header)
        assert error["message"] == f"{header} {wrong}."
        assert around.asked("a") + around.asked("b") == 0


async def test_a_wish_goes_before_the_cache_and_never_around_the_policy(tmp_path: Path) -> None:
    async with pool(tmp_path, *FOUR, rest=MAY, policies={"d": "none"}) as around:
        home = await around.say("Io?", x_moongate_ignore="d")
        other = next(name for name in FOUR if name != home)
        assert await around.say("Io?", "Io.", "More?", x_moongate_order=other) == other
        _, strict = await around.served.app.keys.create(
            account="default", name="z", zero_retention=True
        )
        assert await around.say("Io?", key=strict, x_moongate_upstream=home) == home
        for at in range(8):
            assert await around.say(f"{at}?", key=strict, x_moongate_order="d") != "d"
        asked = around.asked("d")
        reply = await around.served.post(
            conversation("Io?"), authorization=f"Bearer {strict}", **{"x-moongate-upstream": "d"}
        )
        assert (reply.status, (await reply.json())["error"]["param"]) == (400, "x-moongate-only")
        assert around.asked("d") == asked


async def test_a_cut_answers_cached_tokens_are_inferred(tmp_path: Path) -> None:
    long = "Tell me of the moons. " * 100
    async with pool(tmp_path, "a") as around:
        around.scripts["a"] = "text Io.\n" + "text b\ndelay 0.05\n" * 40
        served = around.served
        for turn in range(2):
            body = conversation(long, *["Io.", "More?"] * turn, stream=True)
            async with served.http.post(
                f"{served.url}/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {served.key}"},
            ) as reply:
                while b'"b"' not in await reply.content.readany():
                    pass
                reply.close()
            await served.rows(turn + 1)
        first, second = await served.usage()
        assert {first.outcome, second.outcome} == {"client_left"}
        assert first.usage.cache_read == 0
        assert second.upstream_cached is None
        assert 0.9 < second.usage.cache_read / second.usage.prompt < 1
        assert second.charge_nanos == (
            second.usage.input * 480 + second.usage.cache_read * 100 + second.usage.output * 2000
        )
        about = {"authorization": f"Bearer {served.key}"}
        found = []
        for row in (first, second):
            async with served.http.get(f"{served.url}/receipts/{row.hold}", headers=about) as told:
                found.append(await told.json())
        public = served.app.office.means.signer.public
        assert [list(receipt.differences(one, public)) for one in found] == [[], []]
        assert [one.get("cached") for one in found] == [None, "inferred"]
        await served.sound()
