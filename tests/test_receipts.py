"""Receipts: anybody can do the sums again, and no figure can be changed unseen."""

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.core.chain import link
from moongate.core.money import Price, Usage, charge
from moongate.core.rows import EntryRow, PriceRow, UsageRow
from moongate.ledger import receipt
from office_kit import Desk, refusal

SIGNER = receipt.Signer(bytes(range(32)))
counts = st.integers(0, 2**31)


USED, RATES = Usage(11, 5, 7, 2, 3), Price(480, 100, 2_000, 5_000_000)


def a_row(
    usage: Usage = USED, price: Price = RATES, **fields: Any
) -> tuple[UsageRow, PriceRow, EntryRow | None]:
    due = charge(usage, price)
    forgiven = fields.pop("forgiven", 0)
    values = {
        "hold": "req_0199", "key": "key_1", "account": "acme", "model": "kimi-k2.5",
        "upstream": "moonshot", "outcome": "done", "usage": usage, "price_version": 3,
        "charge_nanos": due - forgiven, "forgiven_nanos": forgiven, "created_ms": 1_000,
        "ended_ms": 2_000, "streamed": True,
    }  # fmt: skip
    row = UsageRow(**(values | fields))
    entry = EntryRow(row.hold, 0, "acme", -row.charge_nanos, "charge", 2_000, 12)
    entry = EntryRow(*[getattr(entry, n) for n in entry.__struct_fields__[:7]], link(b"", entry))
    return row, PriceRow(3, row.model, price, 0), entry if row.charge_nanos else None


def signed(**fields: Any) -> dict[str, Any]:
    return SIGNER.sign(receipt.make(*a_row(**fields)))


def wrong(found: Any, signer: receipt.Signer = SIGNER) -> list[str]:
    return list(receipt.differences(found, signer.public))


def again(found: dict[str, Any]) -> Any:
    """Through a file and back."""
    return receipt.parse(json.dumps(found, indent=2).encode())


@given(counts, counts, counts, st.integers(0, 100), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_receipt_is_its_rows_and_sound(uncached, cached, output, searches, part, free):
    usage, price = Usage(uncached, cached, output, searches), Price(480, 100, 2_000, 5_000_000)
    due = charge(usage, price)
    forgiven = due if free else min(part, due)
    told = signed(usage=usage, price=price, forgiven=forgiven)
    assert wrong(again(told)) == []
    assert sum(line["amount_nanos"] for line in told["lines"]) == due
    assert (told["charge_nanos"], told["forgiven_nanos"]) == (due - forgiven, forgiven)
    assert (told["entry"] is None) == (due == forgiven)


def test_an_attempt_that_was_not_delivered_stands_on_the_receipt():
    due = charge(USED, RATES)
    told = signed(attempts=2, spoiled_nanos=900, forgiven_nanos=900)
    assert (told["attempts"], told["spoiled_nanos"]) == (2, 900)
    assert (told["charge_nanos"], told["forgiven_nanos"]) == (due, 900)
    assert wrong(again(told)) == []
    assert not {"attempts", "spoiled_nanos"} & signed().keys()
    for name, value in (("spoiled_nanos", 901), ("attempts", 1), ("attempts", 3)):
        assert wrong(again({**told, name: value}))
    for name in ("attempts", "spoiled_nanos"):
        assert f"{name} is missing" in wrong({n: v for n, v in told.items() if n != name})
    alone = SIGNER.sign({**told, "spoiled_nanos": 1_000})
    assert wrong(alone) == [
        f"the lines add up to {due}, charge and forgiven to {due - 100}",
        "what was not delivered is no part of what was forgiven",
    ]


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of every figure, text and flag in a receipt."""
    if isinstance(value, dict):
        return [at for name in value for at in leaves(value[name], (*path, name))]
    if isinstance(value, list):
        return [at for n, item in enumerate(value) for at in leaves(item, (*path, n))]
    return [path]


def changed(value: Any, dice: random.Random) -> Any:
    """Another value of the same kind: a digit, a letter, a flag."""
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    text = str(value)
    at = dice.randrange(len(text)) if text else 0
    if isinstance(value, int):
        digit = dice.choice([d for d in "0123456789" if text[at : at + 1] != d])
        return int(text[:at] + digit + text[at + 1 :])
    other = dice.choice([c for c in "0123456789abcdefA" if text[at : at + 1] != c])
    return text[:at] + other + text[at + 1 :]


def put(found: Any, path: tuple, value: Any) -> None:
    for step in path[:-1]:
        found = found[step]
    found[path[-1]] = value


PATHS = leaves(signed())


def test_every_field_of_a_receipt_is_tried():
    names = {str(path[0]) for path in PATHS}
    assert names == set(signed())
    assert len(PATHS) >= 35


@pytest.mark.parametrize("path", PATHS, ids=[".".join(map(str, path)) for path in PATHS])
def test_a_change_anywhere_is_found(path):
    dice = random.Random(str(path))
    told = signed()
    for _ in range(20):
        other = copy.deepcopy(told)
        before = other
        for step in path:
            before = before[step]
        after = changed(before, dice)
        if after == before:  # a leading zero that became none
            continue
        put(other, path, after)
        assert wrong(again(other)), (path, before, after)


def test_a_change_that_keeps_the_sums_is_found_by_the_signature_alone():
    told = signed()
    told["lines"][0]["count"] += 100
    told["lines"][0]["amount_nanos"] += 100 * 480
    told["charge_nanos"] += 100 * 480
    told["charge_usd"] = "0.010077780"
    assert wrong(told)[-1] == "the signature is not of this key over these figures"


def test_sums_are_done_again_even_where_we_signed():
    row, price, entry = a_row()
    body = receipt.make(row, price, entry)
    body["lines"][0]["amount_nanos"] += 1
    assert wrong(SIGNER.sign(body)) == [
        "lines[0]: 11 x 480 is 5280, not 5281",
        "the lines add up to 10019781, charge and forgiven to 10019780",
    ]
    body = receipt.make(row, price, None)
    assert wrong(SIGNER.sign(body)) == [
        "something was charged, but no entry of the ledger is named"
    ]


def test_another_key_is_another_signer():
    other = receipt.Signer(bytes(32))
    assert wrong(signed(), other) == [
        f"key_id is not that of the key given, {receipt.key_id(other.public)}",
        "the signature is not of this key over these figures",
    ]


BROKEN = [
    [], None, "x", 3, {}, {"format": "moongate-receipt-2"},
    {"format": receipt.FORMAT},
    {**signed(), "note": 1},
    {**signed(), "\x1b[2J": 1},
    {**signed(), "charge_nanos": True},
    {**signed(), "charge_nanos": 10**5000},
    {**signed(), "charge_nanos": -1},
    {**signed(), "charge_nanos": 1.0},
    {**signed(), "lines": {}},
    {**signed(), "lines": [1, 2]},
    {**signed(), "lines": signed()["lines"][:3]},
    {**signed(), "entry": {"no": 1, "hash": "zz"}},
    {**signed(), "entry": {}},
    {**signed(), "signature": "00"},
    {**signed(), "signature": signed()["signature"].upper()},
    {name: value for name, value in signed().items() if name != "estimated"},
    {**signed(), "account": "\ud800"},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_whatever_a_file_holds_is_answered_in_sentences(number):
    told = wrong(BROKEN[number])
    assert told
    assert all(text.isprintable() for text in told)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff", b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b"[" * 100_000, b"9" * 5_000],
)
def test_what_could_be_read_in_two_ways_is_not_read(raw):
    with pytest.raises(ValueError, match=r"."):
        receipt.parse(raw)


async def test_the_office_makes_the_receipt_out_of_the_ledger():
    desk = await Desk().start()
    key = (await desk.post("/keys", name="ci", account="acme"))["id"]
    await desk.post("/accounts/acme/credit", usd="1")
    await desk.spend("req_1", key, Usage(11, 5, 7, reasoning=2))
    await desk.spend("req_2", key, Usage(100, 0, 50), outcome="upstream_error")
    told = await desk.get("/receipts/req_1")
    assert wrong(told) == []
    (row,) = [row for row in await desk.store.usage() if row.hold == "req_1"]
    assert told["charge_nanos"] == row.charge_nanos == 11 * 480 + 5 * 100 + 7 * 2_000
    assert [line["count"] for line in told["lines"]] == [11, 5, 7, 0]
    chain = [entry for entry in await desk.store.entries("acme") if entry.tx == "req_1"]
    assert told["entry"] == {"no": 2, "hash": chain[0].chain.hex()}
    free = await desk.get("/receipts/req_2")
    assert wrong(free) == []
    assert (free["charge_nanos"], free["entry"], free["outcome"]) == (0, None, "upstream_error")
    assert free["forgiven_nanos"] == 100 * 480 + 50 * 2_000
    assert (await refusal(desk.get("/receipts/req_3")))[0] == "not_found"
    key = await desk.get("/receipts/key")
    assert key["public_key"] == SIGNER.public.hex()
    assert key["key_id"] == told["key_id"] == receipt.key_id(SIGNER.public)


def test_replicas_that_share_a_pepper_sign_alike():
    assert receipt.Signer(bytes(range(32))).public == SIGNER.public
    assert signed() == signed()
    assert bytes(range(32)).hex() not in repr(SIGNER)
