"""Where it is decided whether a request may search, under which policy, and in which form.

A key that demands zero retention has its query sent to an engine of the operator's own, or to one
under an agreement that nothing is kept, and to no other; nobody's query goes where the engine
promises less than every request demands.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from moongate.core.cards import DataPolicy
from moongate.core.errors import Refused
from moongate.core.ports import WebSearch
from moongate.core.request import Request
from moongate.meter.tokens import Count
from moongate.route.plan import meets
from moongate.search import tool
from moongate.search.sealing import Seal
from moongate.search.tool import Prepared

ROOM: Final = 48_000
"""UTF-8 bytes that the results of one answer may have in all."""
_HEADER: Final = "x-moongate-search"
_ANSWER_TOKENS: Final = 1_024
"""Room in the window that results leave for calls and an answer."""


class Desk:
    """The rules of one installation. ``policy`` is the engine's; ``None``: nobody searches.

    ``unretained``: the engine keeps nothing of a query, so any key may use it. ``by_maker``: the
    model's maker searches, where the conversation goes anyway.
    """

    def __init__(
        self,
        seal: Seal,
        policy: DataPolicy | None,
        *,
        require: DataPolicy,
        unretained: bool = False,
        by_maker: bool = False,
    ) -> None:
        self._seal, self._policy, self._by_maker = seal, policy, by_maker
        self._unretained = unretained
        self._require: DataPolicy = require

    def __repr__(self) -> str:
        return f"Desk({self._policy})"

    def allows(self, *, zero_retention: bool) -> bool:
        """Whether a query may go to the engine; the maker's goes where its conversation may."""
        if self._by_maker:
            return True
        if self._policy is None or not meets(self._policy, self._require):
            return False
        return self._unretained or not zero_retention

    def check(self, *, zero_retention: bool) -> None:
        """Raise Refused (403) where a query may not go to the engine."""
        if not self.allows(zero_retention=zero_retention):
            raise Refused("no_zdr_route")

    def admit(
        self, request: Request, tenant: str, *, zero_retention: bool, by_client: bool = False
    ) -> Prepared:
        """``request`` as upstreams are asked it. Raises Refused, before any money moves."""
        if tool.wanted(request):
            self.check(zero_retention=zero_retention)
            if (request.sampling.n or 1) > 1:
                raise Refused("invalid_value", "n", what="n must be 1 with web search.")
        if self._by_maker:
            return tool.pass_on(request, by_client=by_client)
        prepared = tool.prepare(request, tenant, self._seal, by_client=by_client)
        if prepared.search is None or not zero_retention:
            return prepared
        search = msgspec.structs.replace(prepared.search, pages=False)
        return msgspec.structs.replace(prepared, search=search)


def with_room(search: WebSearch | None, prompt: Count, window: int) -> WebSearch | None:
    """``search`` with the room that a model's ``window`` (tokens) leaves beside ``prompt``.

    A token is at least one byte, so what fits in bytes fits.
    """
    if search is None:
        return None
    taken = min(prompt.bound, 2 * prompt.tokens)
    room = max(0, min(ROOM, window - taken - _ANSWER_TOKENS))
    return msgspec.structs.replace(search, room=room)


def tell_lost(headers: dict[str, str], lost: tuple[int, ...]) -> None:
    """Name in ``headers`` the messages whose results were lost."""
    if lost:
        headers[tool.LOST] = ",".join(f"messages[{at}]" for at in lost[:64])


def asked_by_client(headers: Mapping[str, str]) -> bool:
    """Whether the client runs the loop itself, as it says in its request's headers.

    Raises Refused naming the header where it says something else.
    """
    said = headers.get(_HEADER)
    if said is None:
        return False
    if said.strip().lower() != "client":
        raise Refused("invalid_value", _HEADER, what=f'{_HEADER} must be "client", or left out.')
    return True
