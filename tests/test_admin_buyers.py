"""The operations for buyers: rotation, rates, budgets and invitations, over the memory store."""

import pytest

from moongate.core.errors import LedgerUnavailable
from moongate.core.money import Usage, charge
from moongate.core.rows import HoldRow, Quota
from moongate.core.store import NotHeld
from office_kit import PRICE, Desk, refusal

USD = 10**9


@pytest.fixture
async def desk():
    desk = await Desk().start()
    await desk.post("/accounts/acme/credit", usd="100")
    return desk


async def hold(desk, amount: int, *, key: str = "key_x", project: str = "") -> bool:
    """Whether a request of that amount would be let in; it is not kept open."""
    now_ms = desk.clock.now_ms()
    desk.count = getattr(desk, "count", 0) + 1
    row = HoldRow(
        f"h{desk.count}", key, "acme", "kimi", amount, 1, "me", 60, now_ms, project=project
    )
    made = await desk.store.hold(row)
    if isinstance(made, NotHeld):
        return False
    await desk.store.expire_orphans("another", now_ms)
    return True


async def test_a_key_is_made_with_project_rates_and_a_budget(desk):
    made = await desk.post(
        "/keys", name="ci", account="acme", project="web", budget="2.50", per="day",
        rpm=60, tpm=100_000, concurrency=0,
    )  # fmt: skip
    assert (made["project"], made["rpm"], made["tpm"]) == ("web", 60, 100_000)
    assert made["concurrency"] is None
    (cap,) = made["budgets"]
    assert (cap["scope"], cap["subject"], cap["per"]) == ("key", made["id"], "day")
    assert (cap["cap_usd"], cap["spent_nanos"], cap["window"]) == ("2.50", 0, "2026-01-27")
    principal = await desk.keys.identify(made["key"])
    assert (principal.project, principal.quota) == ("web", Quota(60, 100_000))
    (listed,) = (await desk.get("/keys"))["data"]
    assert (listed["budgets"], listed["last_used_ms"]) == ([cap], None)
    assert await hold(desk, 2_500_000_000, key=made["id"])
    assert not await hold(desk, 2_500_000_001, key=made["id"])
    without = await desk.post("/keys", name="free", account="acme")
    assert (without["budgets"], without["rpm"], without["project"]) == ([], None, "")


async def test_spend_and_budget_stay_with_a_key_through_its_rotation(desk):
    made = await desk.post("/keys", name="ci", account="acme", budget="1", per="month")
    used = Usage(input=1_000_000, output=100_000)
    spent = charge(used, PRICE)
    await desk.spend("req_1", made["id"], used, amount=10**9)
    turned = await desk.post(f"/keys/{made['id']}/rotate", overlap_hours=1)
    assert turned["key"] != made["key"]
    assert (turned["id"], turned["last4"]) == (made["id"], turned["key"][-4:])
    assert turned["old_secret_until_ms"] == desk.clock.now_ms() + 3_600_000
    for secret in (made["key"], turned["key"]):
        assert (await desk.keys.identify(secret)).key == made["id"]
    (listed,) = (await desk.get("/keys"))["data"]
    (cap,) = listed["budgets"]
    assert (cap["spent_nanos"], cap["left_nanos"]) == (spent, USD - spent)
    assert listed["last_used_ms"] == desk.clock.now_ms()
    assert not await hold(desk, USD - spent + 1, key=made["id"])
    assert await hold(desk, USD - spent, key=made["id"])
    desk.clock.advance(3600)
    assert (await refusal(desk.keys.identify(made["key"])))[0] == "invalid_api_key"
    at_once = await desk.post(f"/keys/{made['id']}/rotate", overlap_hours=0)
    assert at_once["old_secret_until_ms"] is None
    assert (await refusal(desk.keys.identify(turned["key"])))[0] == "invalid_api_key"


async def test_what_cannot_be_rotated_or_limited(desk):
    made = await desk.post("/keys", name="ci", account="acme")
    for body in ({"overlap_hours": -1}, {"overlap_hours": 721}, {"overlap_hours": "2"}):
        told = await refusal(desk.post(f"/keys/{made['id']}/rotate", **body))
        assert told[1] == "overlap_hours"
    await desk.post(f"/keys/{made['id']}/revoke")
    assert (await refusal(desk.post(f"/keys/{made['id']}/rotate")))[0] == "conflict"
    assert (await refusal(desk.post("/keys/key_local/rotate")))[0] == "conflict"
    assert (await refusal(desk.post("/keys/key_none/rotate")))[0] == "not_found"
    assert (await refusal(desk.post("/keys/key_none/limit", rpm=1)))[0] == "not_found"
    assert (await refusal(desk.post("/accounts/none/limit", rpm=1)))[0] == "not_found"
    assert (await refusal(desk.post("/accounts/revenue/limit", rpm=1)))[0] == "not_found"
    assert (await refusal(desk.post("/accounts/acme/limit", rpd=1)))[0] == "unknown_parameter"


async def test_rates_change_one_by_one_and_are_taken_away_with_null_or_0(desk):
    made = await desk.post("/keys", name="ci", account="acme", rpm=60, tpm=1_000)
    row = await desk.post(f"/keys/{made['id']}/limit", concurrency=4, tpm=None)
    assert (row["rpm"], row["tpm"], row["concurrency"]) == (60, None, 4)
    row = await desk.post("/accounts/acme/limit", rpm=600, tpm=5)
    assert (row["rpm"], row["tpm"], row["concurrency"]) == (600, 5, None)
    assert (await desk.post("/accounts/acme/limit", rpm=0))["tpm"] == 5
    principal = await desk.keys.identify(made["key"])
    assert principal.quota == Quota(60, None, 4)
    assert principal.account_quota == Quota(None, 5, None)


async def test_budgets_of_keys_projects_and_accounts_each_bind(desk):
    made = await desk.post("/keys", name="ci", account="acme", project="web")
    for subject, per, usd in (
        ({"account": "acme"}, "month", "50"),
        ({"project": "acme/web"}, "week", "10.5"),
        ({"key": made["id"]}, "day", 2),
        ({"key": made["id"]}, "life", "40"),
    ):
        desk.clock.advance(1)
        row = await desk.post("/budgets", **subject, per=per, usd=usd)
        assert (row["account"], row["per"], row["removed"]) == ("acme", per, False)
    rows = (await desk.get("/budgets", account="acme"))["data"]
    assert [(row["scope"], row["subject"], row["cap_usd"], row["window"]) for row in rows] == [
        ("account", "acme", "50.00", "2026-01-01"),
        ("project", "acme/web", "10.50", "2026-01-26"),
        ("key", made["id"], "2.00", "2026-01-27"),
        ("key", made["id"], "40.00", "life"),
    ]
    assert (await desk.get("/budgets"))["data"] == rows
    for amount, where in (
        (51 * USD, {}),
        (11 * USD, {"project": "web"}),
        (3 * USD, {"key": made["id"]}),
    ):
        assert not await hold(desk, amount, **where)
        assert await hold(desk, amount - USD, **where)


async def test_a_changed_cap_holds_at_once_and_null_removes_it(desk):
    await desk.post("/budgets", account="acme", usd="5")
    assert not await hold(desk, 6 * USD)
    first = (await desk.get("/budgets"))["data"]
    await desk.post("/budgets", account="acme", usd="7", per="month")
    assert await hold(desk, 6 * USD)
    assert [row["id"] for row in (await desk.get("/budgets"))["data"]] == [first[0]["id"]]
    await desk.post("/budgets", account="acme", usd="0")
    assert not await hold(desk, 1)
    gone = await desk.post("/budgets", account="acme", usd=None)
    assert gone["removed"]
    assert await hold(desk, 90 * USD)
    assert (await desk.get("/budgets"))["data"] == []
    assert (await refusal(desk.post("/budgets", account="acme", usd=None)))[0] == "not_found"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"usd": "1"}, "missing_required_parameter", "account"),
        ({"account": "acme", "key": "k", "usd": "1"}, "missing_required_parameter", "account"),
        ({"account": "acme"}, "missing_required_parameter", "usd"),
        ({"account": "acme", "usd": "-1"}, "invalid_value", "usd"),
        ({"account": "acme", "usd": "lots"}, "invalid_value", "usd"),
        ({"account": "acme", "usd": 1.5}, "invalid_type", "usd"),
        ({"account": "acme", "usd": "1000001"}, "invalid_value", "usd"),
        ({"account": "acme", "usd": "1", "per": "year"}, "invalid_value", "per"),
        ({"account": "a b", "usd": "1"}, "invalid_value", "account"),
        ({"account": "acme/web", "usd": "1"}, "invalid_value", "account"),
        ({"account": "nobody", "usd": "1"}, "not_found", None),
        ({"account": "revenue", "usd": "1"}, "not_found", None),
        ({"project": "web", "usd": "1"}, "invalid_value", "project"),
        ({"project": "acme/", "usd": "1"}, "invalid_value", "project"),
        ({"project": "acme/a/b", "usd": "1"}, "invalid_value", "project"),
        ({"project": "nobody/web", "usd": "1"}, "not_found", None),
        ({"key": "key_none", "usd": "1"}, "not_found", None),
        ({"key": 3, "usd": "1"}, "invalid_type", "key"),
    ],
)
async def test_what_a_budget_cannot_be(desk, body, code, param):
    assert (await refusal(desk.post("/budgets", **body)))[:2] == (code, param)
    assert await desk.store.budgets(None, desk.clock.now_ms()) == []


async def test_an_invitation_names_its_account_and_its_link_holds_the_code_behind_the_hash(desk):
    made = await desk.post("/accounts/new/invites", name="laptop", expires_hours=2, credit="5")
    assert made["link"] == f"https://api.example/join#{made['code']}"
    assert (made["account"], made["account_created"], made["state"]) == ("new", True, "open")
    assert (made["credited_nanos"], made["credited_usd"]) == (5 * USD, "5.00")
    assert made["expires_ms"] == desk.clock.now_ms() + 7_200_000
    assert (await desk.get("/accounts/new"))["available_usd"] == "5.00"
    plain = await desk.post("/accounts/acme/invites")
    assert (plain["name"], plain["credited_nanos"]) == ("acme", 0)
    desk.clock.advance(7200)
    rows = (await desk.get("/invites"))["data"]
    assert {row["account"]: row["state"] for row in rows} == {"new": "expired", "acme": "open"}
    assert [row["id"] for row in (await desk.get("/invites", account="acme"))["data"]] == [
        plain["id"]
    ]
    assert made["code"] not in str(rows)
    assert "code" not in rows[0]


@pytest.mark.parametrize(
    ("account", "body", "param"),
    [
        ("a b", {}, "account"),
        ("revenue", {}, "account"),
        ("new", {"name": ""}, "name"),
        ("new", {"expires_hours": 0}, "expires_hours"),
        ("new", {"expires_hours": 8761}, "expires_hours"),
        ("new", {"credit": "-5"}, "credit"),
        ("new", {"credit": "0"}, "credit"),
        ("new", {"models": []}, "models"),
    ],
)
async def test_what_an_invitation_cannot_be(desk, account, body, param):
    assert (await refusal(desk.post(f"/accounts/{account}/invites", **body)))[1] == param
    assert await desk.store.invites() == []
    assert (await refusal(desk.get("/invites", account="nobody")))[0] == "not_found"


async def test_a_store_that_is_gone_is_said(desk):
    desk.store.trouble = "full"
    for path in ("/budgets", "/invites"):
        with pytest.raises(LedgerUnavailable):
            await desk.get(path)
    with pytest.raises(LedgerUnavailable):
        await desk.post("/accounts/acme/invites")
