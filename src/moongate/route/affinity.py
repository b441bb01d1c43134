"""Which place last held a prefix: keyed digests only, in memory, bounded in number and in time.

A place is an upstream and one of its credentials, as one name. A digest may be held at several
places, since a shared system message lives on many; they stand in the order in which they came to
it, the first being its home. Every organisation has a shelf of its own, and where room is short
the fullest shelf loses what was not touched for longest. No text is here, nothing of it is
logged, and nothing of it leaves this process.
"""

from typing import Final, NamedTuple

import msgspec

from moongate.core.ports import Clock
from moongate.route.prefix import Prefix

LIFE_S: Final = 3600.0
"""What was not seen for so long is forgotten."""
ENTRIES_MAX: Final = 131_072
"""Digests in memory, of about 150 bytes each."""
HOLDERS_MAX: Final = 4
"""Places remembered for one digest: its home, and who was seen last of the others."""
_SPARE: Final = 64  # room is made for so many at once


class Hold(NamedTuple):
    """A place that held a prefix, and when it was last seen there (monotonic seconds)."""

    place: str
    seen_s: float


class Known(msgspec.Struct, frozen=True):
    """What the map knows of one request.

    ``sizes``: by place, the characters of the longest prefix that was seen there. ``homes``: the
    places that have seen this very conversation, in the order in which they came to it. ``hinted``:
    those that have seen its ``prompt_cache_key``.
    """

    sizes: dict[str, int] = {}
    homes: tuple[str, ...] = ()
    hinted: tuple[str, ...] = ()


class Affinity:
    """The map of one process. It never asks anybody, and nobody may ask it for a digest."""

    def __init__(
        self, clock: Clock, *, entries_max: int = ENTRIES_MAX, life_s: float = LIFE_S
    ) -> None:
        self._clock = clock
        self._entries_max, self._life_s = entries_max, life_s
        self._shelves: dict[str, dict[bytes, tuple[Hold, ...]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Affinity({self._count} digests, {len(self._shelves)} organisations)"

    def known(self, prefix: Prefix) -> Known:
        """What is remembered of ``prefix``; nothing of another organisation."""
        shelf = self._shelves.get(prefix.tenant)
        if not shelf:
            return Known()
        since_s = self._clock.monotonic_s() - self._life_s
        sizes: dict[str, int] = {}
        homes: tuple[str, ...] = ()
        for digest, size in zip(reversed(prefix.digests), reversed(prefix.sizes), strict=True):
            holds = shelf.get(digest)
            if holds is None:
                continue
            places = tuple([hold.place for hold in holds if hold.seen_s > since_s])
            for place in places:
                sizes.setdefault(place, size)
            if size >= prefix.anchor_size and places and places != homes:
                homes = (*places, *(place for place in homes if place not in places))
        hinted = shelf.get(prefix.key, ()) if prefix.key else ()
        return Known(sizes, homes, tuple(hold.place for hold in hinted if hold.seen_s > since_s))

    def remember(self, prefix: Prefix, place: str) -> None:
        """Note that ``place`` has answered ``prefix``.

        Of the boundaries in its midst those that no other place holds are let go of: a conversation
        takes about twenty digests, however long it grows.
        """
        shelf = self._shelves.setdefault(prefix.tenant, {})
        hold = Hold(place, self._clock.monotonic_s())
        lasting = {prefix.digests[at] for at in prefix.lasting}
        for digest in prefix.digests:
            if digest in lasting:
                self._put(shelf, digest, hold)
            elif (holds := shelf.get(digest)) and all(one.place == place for one in holds):
                del shelf[digest]
                self._count -= 1
        if prefix.key is not None:
            self._put(shelf, prefix.key, hold)
        if self._count > self._entries_max:
            self._make_room()

    def expire(self) -> None:
        """Drop what is past its time; to be called now and then."""
        since_s = self._clock.monotonic_s() - self._life_s
        for tenant, shelf in list(self._shelves.items()):
            # Whatever is touched goes to the end, so the oldest stand first.
            old = []
            for digest, holds in shelf.items():
                if max(hold.seen_s for hold in holds) > since_s:
                    break
                old.append(digest)
            for digest in old:
                del shelf[digest]
            self._count -= len(old)
            if not shelf:
                del self._shelves[tenant]

    def _put(self, shelf: dict[bytes, tuple[Hold, ...]], digest: bytes, hold: Hold) -> None:
        before = shelf.pop(digest, None)
        if before is None:
            self._count += 1
            shelf[digest] = (hold,)
            return
        since_s = hold.seen_s - self._life_s
        fresh = [one for one in before if one.seen_s > since_s]
        for at, one in enumerate(fresh):
            if one.place == hold.place:
                fresh[at] = hold
                break
        else:
            if len(fresh) >= HOLDERS_MAX:
                fresh.remove(min(fresh[1:], key=lambda one: one.seen_s))
            fresh.append(hold)
        shelf[digest] = tuple(fresh)

    def _make_room(self) -> None:
        """The fullest shelves lose their oldest digests."""
        while self._count > self._entries_max - min(_SPARE, self._entries_max // 2):
            tenant = max(self._shelves, key=lambda name: len(self._shelves[name]))
            shelf = self._shelves[tenant]
            for digest in list(zip(shelf, range(_SPARE), strict=False)):
                del shelf[digest[0]]
                self._count -= 1
            if not shelf:
                del self._shelves[tenant]
