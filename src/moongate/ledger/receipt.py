"""Receipts: what one request used, what each class cost, and our signature under it.

A receipt is plain JSON that anybody recomputes with nothing but the public key: every line is a
count times a price, the lines add up to charge and forgiven, and an Ed25519 signature covers all
of it. Where more than one answer was made, it says how many, and what those not delivered were
worth: that was forgiven, too. It is made of rows alone; this module refuses to know where they lie,
and who asks.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moongate.core import money
from moongate.core.errors import safe_name
from moongate.core.money import Price, nanos_to_usd
from moongate.core.rows import EntryRow, PriceRow, UsageRow

FORMAT: Final = "moongate-receipt-1"
CLASSES: Final = ("input", "cached", "output", "searches")
"""The billed classes: uncached prompt tokens, cached ones, output tokens, and search calls."""

_FIELDS: Final = {
    "format": str, "request": str, "account": str, "key": str, "model": str, "upstream": str,
    "outcome": str, "status": int, "streamed": bool, "estimated": bool, "reasoning": int,
    "created_ms": int, "ended_ms": int, "price_version": int, "lines": list, "charge_nanos": int,
    "charge_usd": str, "forgiven_nanos": int, "entry": dict, "key_id": str, "signature": str,
}  # fmt: skip
_AGAIN: Final = {"attempts": int, "spoiled_nanos": int}
"""Both stand there where more than one answer was made."""
_CUT: Final = {"cached": str}
"""Stands there, as ``inferred``, where an answer was cut before its cached tokens were told."""
_MAY_BE_NULL: Final = frozenset({"reasoning", "entry"})
_LINE: Final = {"class": str, "count": int, "unit_nanos": int, "amount_nanos": int}
_ENTRY: Final = {"no": int, "hash": str}
_INTEGER_MAX: Final = 2**63 - 1
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


class Signer:
    """Signs receipts with the key that ``secret`` (32 bytes) is; it is never shown."""

    def __init__(self, secret: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Signer({key_id(self.public)})"

    def sign(self, receipt: Mapping[str, Any]) -> dict[str, Any]:
        """``receipt`` with the key's id and the signature over everything else."""
        body = {**receipt, "key_id": key_id(self.public)}
        return {**body, "signature": self._private.sign(canonical(body)).hex()}


def key_id(public: bytes) -> str:
    """A public key's short name: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def canonical(receipt: Mapping[str, Any]) -> bytes:
    """The bytes that are signed: JSON in UTF-8, keys sorted, no spaces, without the signature."""
    body = {name: value for name, value in receipt.items() if name != "signature"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def make(row: UsageRow, price: PriceRow, entry: EntryRow | None) -> dict[str, Any]:
    """The receipt of a resolved request, not signed yet.

    ``entry`` is the wallet's side of the charge; there is none where nothing was charged.
    """
    used, unit = row.usage, price.price
    counts = (used.input, used.cache_read, used.output, used.searches)
    units = (unit.input, unit.cached, unit.output, unit.search)
    lines = [
        {"class": name, "count": count, "unit_nanos": nanos, "amount_nanos": count * nanos}
        for name, count, nanos in zip(CLASSES, counts, units, strict=True)
    ]
    return {
        "format": FORMAT,
        "request": row.hold,
        "account": row.account,
        "key": row.key,
        "model": row.model,
        "upstream": row.upstream,
        "outcome": row.outcome,
        "status": row.status,
        "streamed": row.streamed,
        "estimated": used.estimated,
        "reasoning": used.reasoning,
        "created_ms": row.created_ms,
        "ended_ms": row.ended_ms,
        "price_version": row.price_version,
        "lines": lines,
        "charge_nanos": row.charge_nanos,
        "charge_usd": nanos_to_usd(row.charge_nanos),
        "forgiven_nanos": row.forgiven_nanos,
        "entry": _entry(entry),
        **({name: getattr(row, name) for name in _AGAIN} if row.attempts > 1 else {}),
        **({"cached": "inferred"} if used.cache_read and row.upstream_cached is None else {}),
    }


def _entry(entry: EntryRow | None) -> dict[str, Any] | None:
    if entry is None or entry.chain is None:
        return None
    return {"no": entry.chain_no, "hash": entry.chain.hex()}


def saved(receipt: Mapping[str, Any]) -> int:
    """What a receipt's cached tokens cost less than uncached ones (nano-dollars).

    It follows from the lines, so it is not signed beside them. Nothing where nothing was charged.
    """
    lines = {line["class"]: line for line in receipt["lines"]}
    if not receipt["charge_nanos"] or not {"input", "cached"} <= lines.keys():
        return 0
    cached = lines["cached"]
    price = Price(lines["input"]["unit_nanos"], cached["unit_nanos"], output=0)
    return money.saved(cached["count"], price)


def parse(raw: bytes) -> Any:
    """A receipt's JSON as it was written. Raises ValueError where it can be read in two ways."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a field stands there twice")
        return found

    try:
        return json.loads(raw.decode(), object_pairs_hook=once)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def differences(receipt: Any, public: bytes) -> Iterator[str]:
    """What is wrong with a receipt, in sentences; nothing when it is sound.

    ``receipt`` is what a JSON file held, whatever that is; no sentence repeats its texts.
    ``public`` is the signer's key.
    """
    shape = list(misshapen(receipt))
    if shape:
        yield from shape
        return
    yield from _sums(receipt)
    if receipt["key_id"] != key_id(public):
        yield f"key_id is not that of the key given, {key_id(public)}"
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(
            bytes.fromhex(receipt["signature"]), canonical(receipt)
        )
    except InvalidSignature:
        yield "the signature is not of this key over these figures"


def misshapen(receipt: Any) -> Iterator[str]:
    """Which fields are missing, unknown or of another kind."""
    if not isinstance(receipt, dict):
        yield "it is no JSON object"
        return
    if receipt.get("format") != FORMAT:
        yield f"format is not {FORMAT}"
        return
    again = _AGAIN if _AGAIN.keys() & receipt.keys() else {}
    cut = _CUT if "cached" in receipt else {}
    yield from _fields(receipt, {**_FIELDS, **again, **cut}, "")
    if receipt.get("cached", "inferred") != "inferred":
        yield "cached takes the word inferred alone"
    entry, lines = receipt.get("entry"), receipt.get("lines")
    if isinstance(entry, dict):
        yield from _fields(entry, _ENTRY, "entry.")
        if not _HASH.fullmatch(str(entry.get("hash"))):
            yield "entry.hash is no SHA-256 in hex"
    for at, line in enumerate(lines if isinstance(lines, list) else []):
        yield from _fields(line if isinstance(line, dict) else {}, _LINE, f"lines[{at}].")
    if not _SIGNATURE.fullmatch(str(receipt.get("signature"))):
        yield "signature is no Ed25519 signature in hex"


def _fields(found: dict[str, Any], wanted: Mapping[str, type], where: str) -> Iterator[str]:
    for name in sorted(found.keys() - wanted.keys()):
        yield f"{where}{safe_name(name)} is not a field of a receipt"
    for name, kind in wanted.items():
        value = found.get(name)
        if name not in found:
            yield f"{where}{name} is missing"
        elif value is None and name in _MAY_BE_NULL and not where:
            continue
        elif type(value) is not kind:  # True is an int to isinstance
            yield f"{where}{name} is of the wrong kind"
        elif isinstance(value, int) and not 0 <= value <= _INTEGER_MAX:
            yield f"{where}{name} is out of range"


def _sums(receipt: dict[str, Any]) -> Iterator[str]:
    """Every product and sum, done again."""
    lines = receipt["lines"]
    if [line["class"] for line in lines] != list(CLASSES):
        yield f"lines are not {', '.join(CLASSES)}"
    for at, line in enumerate(lines):
        count, unit, amount = line["count"], line["unit_nanos"], line["amount_nanos"]
        if count * unit != amount:
            yield f"lines[{at}]: {count} x {unit} is {count * unit}, not {amount}"
    total = sum(line["amount_nanos"] for line in lines)
    charge, forgiven = receipt["charge_nanos"], receipt["forgiven_nanos"]
    spoiled = receipt.get("spoiled_nanos", 0)
    if total + spoiled != charge + forgiven:
        yield f"the lines add up to {total}, charge and forgiven to {charge + forgiven - spoiled}"
    if spoiled > forgiven or receipt.get("attempts", 2) < 2:
        yield "what was not delivered is no part of what was forgiven"
    if receipt["charge_usd"] != nanos_to_usd(charge):
        yield f"charge_usd is not the charge, {nanos_to_usd(charge)}"
    if charge > 0 and receipt["entry"] is None:
        yield "something was charged, but no entry of the ledger is named"
    if charge == 0 and receipt["entry"] is not None:
        yield "nothing was charged, but an entry of the ledger is named"
