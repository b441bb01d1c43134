"""Invitations: a code that makes one key of one account, once.

Only a MAC of the code is kept, as of a key. The store uses a code up and inserts the key in one
commit, so of two who redeem it at once one gets a key. Unknown, used and late codes get one answer.
"""

from typing import Final

import msgspec

from moongate.access.codes import mint, well_formed
from moongate.access.keys import Keys
from moongate.core.errors import Refused
from moongate.core.ids import new_id
from moongate.core.ports import Clock, Store
from moongate.core.rows import InviteRow, KeyRow

PREFIX: Final = "mgi-"


class Invites:
    """The invitations of a store; ``keys`` mints what they make, and their MACs."""

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store, self._keys, self._clock = store, keys, clock

    def __repr__(self) -> str:
        return "Invites()"

    async def invite(
        self, account: str, name: str, lasts_ms: int, trial_nanos: int = 0
    ) -> tuple[InviteRow, str]:
        """An invitation to ``account``, which exists; its code is returned only here.

        ``name`` is what the key will be called; ``trial_nanos`` are credited at once.
        """
        now_ms = self._clock.now_ms()
        code = mint(PREFIX)
        row = InviteRow(
            new_id("inv_", now_ms), account, name, self._keys.mac(code), now_ms, now_ms + lasts_ms
        )
        await self._store.invite_add(row, trial_nanos)
        return row, code

    async def redeem(self, code: str) -> tuple[KeyRow, str]:
        """Use ``code`` up: the key that it makes, and its secret, returned only here.

        Raises Refused (404) and LedgerUnavailable.
        """
        if not well_formed(code, PREFIX):
            raise Refused("invalid_invitation")
        key, secret = self._keys.minted("", "")
        taken = await self._store.invite_take(self._keys.mac(code), key, self._clock.now_ms())
        if taken is None:
            raise Refused("invalid_invitation")
        return msgspec.structs.replace(key, account=taken.account, name=taken.name), secret
