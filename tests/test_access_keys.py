"""Keys keep their identity through a rotation; invitations make one key, once."""

import asyncio

import pytest

from moongate.access import codes
from moongate.access.invites import Invites
from moongate.access.keys import Keys
from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.ports import ManualClock
from moongate.core.rows import Quota
from moongate.store.memory import MemoryStore

HOUR_MS = 3_600_000


class House:
    def __init__(self) -> None:
        self.clock, self.store = ManualClock(), MemoryStore()
        self.keys = Keys(self.store, bytes(32), self.clock)
        self.other = Keys(self.store, bytes(32), self.clock)  # another process, with its own cache
        self.invites = Invites(self.store, self.keys, self.clock)

    async def opens(self, secret: str, keys: Keys | None = None) -> bool:
        try:
            await (keys or self.keys).identify(secret)
        except Refused as error:
            return error.code != "invalid_api_key"
        return True


@pytest.fixture
async def house():
    house = House()
    await house.store.open()
    return house


async def test_a_rotated_key_keeps_its_id_and_its_old_secret_ends_in_time(house):
    row, first = await house.keys.create(account="acme", name="ci", project="web")
    assert await house.opens(first, house.other)
    second = await house.keys.rotate(row.id, 24 * HOUR_MS)
    assert second is not None
    assert second != first
    for secret in (first, second):
        principal = await house.keys.identify(secret)
        assert (principal.key, principal.account, principal.project) == (row.id, "acme", "web")
    (kept,) = await house.store.keys()
    assert (kept.id, kept.last4) == (row.id, second[-4:])
    house.clock.advance(24 * 3600 - 1)
    assert await house.opens(first)
    house.clock.advance(1)
    assert not await house.opens(first)
    assert not await house.opens(first, house.other)
    assert await house.opens(second)
    assert await house.opens(second, house.other)


async def test_the_secret_before_the_last_one_ends_with_the_next_rotation(house):
    row, first = await house.keys.create(account="acme", name="ci")
    second = await house.keys.rotate(row.id, 24 * HOUR_MS)
    third = await house.keys.rotate(row.id, 24 * HOUR_MS)
    assert [await house.opens(secret) for secret in (first, second, third)] == [False, True, True]


async def test_without_an_overlap_the_old_secret_ends_at_once_here_and_in_a_second_elsewhere(house):
    row, first = await house.keys.create(account="acme", name="ci")
    assert await house.opens(first)
    assert await house.opens(first, house.other)
    second = await house.keys.rotate(row.id, 0)
    assert not await house.opens(first)
    house.clock.advance(1)
    assert not await house.opens(first, house.other)
    assert await house.opens(second, house.other)


async def test_a_key_that_has_ended_is_not_rotated(house):
    row, first = await house.keys.create(account="acme", name="ci")
    late, _ = await house.keys.create(
        account="acme", name="late", expires_ms=house.clock.now_ms() + 1
    )
    house.clock.advance(1)
    await house.keys.revoke(row.id)
    for id in (row.id, late.id, "key_unknown"):
        assert await house.keys.rotate(id, HOUR_MS) is None
    assert not await house.opens(first)


async def test_revoking_ends_both_secrets(house):
    row, first = await house.keys.create(account="acme", name="ci")
    second = await house.keys.rotate(row.id, HOUR_MS)
    assert await house.keys.revoke(row.id)
    assert [await house.opens(secret) for secret in (first, second)] == [False, False]


async def test_an_admin_key_stays_one(house):
    row, first = await house.keys.create(account="acme", name="ops", admin=True)
    second = await house.keys.rotate(row.id, 0)
    assert first.startswith("mga-")
    assert second.startswith("mga-")
    assert (await house.keys.identify(second)).admin


async def test_a_principal_carries_the_rates_of_its_key_and_its_account_within_a_second(house):
    row, secret = await house.keys.create(account="acme", name="ci", quota=Quota(rpm=60))
    await house.store.account_quota("acme", Quota(tpm=1_000))
    principal = await house.keys.identify(secret)
    assert (principal.quota, principal.account_quota) == (Quota(rpm=60), Quota(tpm=1_000))
    assert await house.opens(secret, house.other)
    assert await house.keys.limit(row.id, Quota(concurrency=2))
    assert (await house.keys.identify(secret)).quota == Quota(concurrency=2)
    house.clock.advance(1)
    assert (await house.other.identify(secret)).quota == Quota(concurrency=2)
    assert not await house.keys.limit("key_unknown", Quota())


# Invitations.


async def test_an_invitation_makes_one_key_of_its_account(house):
    await house.keys.ensure_account("acme")
    row, code = await house.invites.invite("acme", "laptop", HOUR_MS)
    assert code.startswith("mgi-")
    assert code not in repr(await house.store.invites())
    key, secret = await house.invites.redeem(code)
    principal = await house.keys.identify(secret)
    assert (principal.key, principal.account, principal.admin) == (key.id, "acme", False)
    assert (key.name, key.account) == ("laptop", "acme")
    (used,) = await house.store.invites()
    assert (used.id, used.key) == (row.id, key.id)
    with pytest.raises(Refused) as caught:
        await house.invites.redeem(code)
    assert (caught.value.status, caught.value.code) == (404, "invalid_invitation")


async def test_of_many_who_redeem_it_at_once_one_gets_a_key(house):
    await house.keys.ensure_account("acme")
    _, code = await house.invites.invite("acme", "laptop", HOUR_MS)
    got = await asyncio.gather(
        *(house.invites.redeem(code) for _ in range(50)), return_exceptions=True
    )
    assert sum(not isinstance(one, Refused) for one in got) == 1
    assert len(await house.store.keys("acme")) == 1


async def test_unknown_mistyped_late_and_foreign_codes_get_one_answer(house):
    await house.keys.ensure_account("acme")
    _, late = await house.invites.invite("acme", "laptop", HOUR_MS)
    _, good = await house.invites.invite("acme", "laptop", 2 * HOUR_MS)
    _, key = await house.keys.create(account="acme", name="ci")
    house.clock.advance(3600)
    said = set()
    wrong = (late, codes.mint("mgi-"), codes.mint("mg-"), key, good[:-1], good[:-1] + "!", "", "é")
    for code in (*wrong, f"{good} ", good.upper()):
        with pytest.raises(Refused) as caught:
            await house.invites.redeem(code)
        said.add(caught.value.message)
    assert said == {"This invitation is not known, was used, or has expired. Ask for a new one."}
    house.store.trouble = "full"
    with pytest.raises(LedgerUnavailable):
        await house.invites.redeem(good)
    with pytest.raises(Refused):  # a mistyped one is refused before the store is asked
        await house.invites.redeem(good[:-1] + ("a" if good[-1] != "a" else "b"))
    house.store.trouble = None
    assert (await house.invites.redeem(good))[0].account == "acme"


def test_a_secret_with_one_wrong_letter_is_not_well_formed():
    secret = codes.mint("mg-")
    assert codes.well_formed(secret, "mg-", "mga-")
    assert not codes.well_formed(secret, "mga-")
    for at in range(3, len(secret)):
        other = "a" if secret[at] != "a" else "b"
        assert not codes.well_formed(secret[:at] + other + secret[at + 1 :], "mg-")
