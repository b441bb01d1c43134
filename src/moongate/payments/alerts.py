"""Word of a low balance, by signed webhook to the operator: once for each time a wallet falls.

Which wallets are due, and which were told of, is the store's to know, so several processes tell
each once between them. A word that was not taken is given again, later and later. Delivery is at
least once: a receiver that answers and then is not believed hears it twice.
"""

import asyncio
from typing import Final

import aiohttp
import msgspec

from moongate.core.errors import LedgerUnavailable
from moongate.core.money import nanos_to_usd
from moongate.core.ports import Clock, Store
from moongate.core.rows import AccountRow
from moongate.payments.signature import sign
from moongate.payments.till import Report

EVERY_S: Final = 5.0
PAUSE_MAX_S: Final = 300.0
HEADER: Final = "x-moongate-signature"
_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 8
_OK: Final = range(200, 300)


class Alerts:
    """Tells ``url`` of wallets below ``below_nanos``, signed with ``secret``."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        report: Report,
        *,
        url: str,
        secret: str,
        below_nanos: int,
        every_s: float = EVERY_S,
    ) -> None:
        if not secret:
            raise ValueError("alerts need a secret")
        self._store, self._clock, self._report = store, clock, report
        self._url, self._secret, self._below_nanos = url, secret.encode(), below_nanos
        self._every_s = every_s

    def __repr__(self) -> str:
        return "Alerts()"

    async def run(self) -> None:
        """Look and tell until cancelled; each turn in vain doubles the pause."""
        in_vain = 0
        while True:
            await asyncio.sleep(min(self._every_s * 2**in_vain, PAUSE_MAX_S))
            try:
                in_vain = 0 if await self.turn() else min(in_vain + 1, 10)
            except LedgerUnavailable as error:
                self._report("ledger_unavailable", kind=error.kind)

    async def turn(self) -> bool:
        """Tell of every wallet that is due; False when one was not taken.

        Raises LedgerUnavailable.
        """
        wallets = await self._store.low_wallets(self._below_nanos, self._clock.now_ms())
        taken = True
        for at in range(0, len(wallets), _AT_ONCE):
            group = wallets[at : at + _AT_ONCE]
            async with aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
            ) as http:
                heard = await asyncio.gather(*(self._tell(http, wallet) for wallet in group))
            told = [wallet.id for wallet, ok in zip(group, heard, strict=True) if ok]
            if told:
                await self._store.low_told(told)
            if len(told) < len(group):
                taken = False
                break  # the claims of the rest lapse; nothing is gained by more words in vain
        return taken

    async def _tell(self, http: aiohttp.ClientSession, wallet: AccountRow) -> bool:
        """Whether the receiver took the word of ``wallet``."""
        now_ms = self._clock.now_ms()
        body = msgspec.json.encode(said(wallet, self._below_nanos, now_ms))
        headers = {
            "content-type": "application/json",
            HEADER: sign(self._secret, body, now_ms // 1000),
        }
        kind = "untaken"
        try:
            async with http.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as reply:
                if reply.status in _OK:
                    kind = "taken"
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            kind = "unreached"
        self._report("balance_low", account=wallet.id, kind=kind)
        return kind == "taken"


def said(wallet: AccountRow, below_nanos: int, now_ms: int) -> dict[str, str | int]:
    """What a receiver is told."""
    return {
        "type": "balance.low",
        "account": wallet.id,
        "available_nanos": wallet.available_nanos,
        "available_usd": nanos_to_usd(wallet.available_nanos),
        "threshold_nanos": below_nanos,
        "threshold_usd": nanos_to_usd(below_nanos),
        "created_ms": now_ms,
    }
