"""What a search found, cleaned: strangers' text, bounded, without what could act on a reader.

An engine gives what it got; :func:`clean` keeps only addresses of the web and plain text of bounded
length. Nothing here is ever logged: a query and its results are content.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from moongate.core.errors import MoongateError
from moongate.core.sealed import Sealed

QUERY_CHARS_MAX: Final = 400
RESULTS_MAX: Final = 20
TITLE_CHARS_MAX: Final = 200
TEXT_CHARS_MAX: Final = 4_000
URL_CHARS_MAX: Final = 2_048
_DATE_CHARS_MAX: Final = 40
SEARCH_KINDS: Final = (
    *("down", "slow", "empty", "malformed", "limited", "refused", "status", "not_started"),
)
"""How a search can fail."""
ERRORS: Final = {
    **dict.fromkeys(("down", "status", "limited", "not_started"), "unavailable"),
    **dict.fromkeys(("too_many", "no_room", "limit"), "limit"),
    "slow": "timeout",
}
"""What a client is told of a search that brought nothing; other kinds keep their word."""

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""Control, format and tag characters, which hide text from people and not from a model."""
_SPACE: Final = re.compile(r"[^\S\n]+")
_LINES: Final = re.compile(r" ?\n[ \n]*")
"""After the other, which leaves no two spaces together: no text makes it look back far."""


class SearchFailed(MoongateError):
    """A search engine let us down: ``kind`` is one of :data:`SEARCH_KINDS`, for logs and models."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Result(Sealed, frozen=True):
    """One thing found. ``published`` is as the engine wrote it; ``None``: it did not say."""

    title: str
    url: str
    text: str
    published: str | None = None


class Engine(Protocol):
    """Who searches. ``find`` raises SearchFailed, and nothing else."""

    name: str

    async def start(self) -> None:
        """Open what is needed. Raises ConfigurationError with a sentence for the operator."""

    async def close(self) -> None:
        """Release everything."""

    async def find(self, query: str, results_max: int) -> list[Result]:
        """What ``query`` finds, best first, not cleaned."""


def clean(found: Iterable[Result], results_max: int) -> list[Result]:
    """The results that may be shown, each address once, best first."""
    out: dict[str, Result] = {}
    for one in found:
        url = one.url.strip()
        if len(out) >= results_max:
            break
        if url in out or not is_web(url):
            continue
        out[url] = Result(
            title=plain(one.title, TITLE_CHARS_MAX).replace("\n", " ") or url,
            url=url,
            text=plain(one.text, TEXT_CHARS_MAX),
            published=plain(one.published or "", _DATE_CHARS_MAX) or None,
        )
    return list(out.values())


def plain(text: str, chars_max: int) -> str:
    """``text`` without what cannot be seen, and no spelling of a control token, cut to a length."""
    text = _UNSEEN.sub("", text.replace("\r", "\n")[: 4 * chars_max])
    # Engines that parse special tokens in a prompt's text would take such a spelling for one.
    text = text.replace("<|", "< |").replace("|>", "| >")
    text = _LINES.sub("\n", _SPACE.sub(" ", text)).strip()
    return text if len(text) <= chars_max else text[: chars_max - 1].rstrip() + "…"


def is_web(url: str) -> bool:
    """Whether ``url`` is a plain address of the web, as it may be shown and cited."""
    if not 0 < len(url) <= URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        return False
    if any(sign in url for sign in " <>\"'`\\{}|^"):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        return False


def listed(found: Any, *path: str) -> list[dict[str, Any]]:
    """The objects of the list at ``path`` in an engine's JSON. Raises SearchFailed."""
    for name in path:
        if not isinstance(found, dict):
            raise SearchFailed("malformed")
        found = found.get(name, {} if name != path[-1] else [])
    if not isinstance(found, list):
        raise SearchFailed("malformed")
    return [one for one in found if isinstance(one, dict)]


def word(one: dict[str, Any], *names: str) -> str:
    """The first of these fields that is a text, or an empty one."""
    return next((value for name in names if isinstance(value := one.get(name), str) and value), "")
