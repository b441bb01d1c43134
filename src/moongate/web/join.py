"""The page where an invitation becomes a key, for people and for programs.

The code stands behind the ``#`` of the link, which a browser does not send: the page puts it into
a form, and only a POST uses it up, so that no preview of a link does. Nothing is loaded from
anywhere, and the page works without its script.
"""

import re
import secrets
from collections.abc import Callable
from importlib import resources
from typing import Final
from urllib.parse import parse_qs

import jinja2
import msgspec
from aiohttp import web

from moongate.access.invites import Invites
from moongate.admin.fields import Fields
from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.rows import KeyRow
from moongate.web import body
from moongate.web.reply import whole
from moongate.web.server import Handler, Hit
from moongate.wire import fields

_BYTES_MAX: Final = 4 << 10
_FORM: Final = "application/x-www-form-urlencoded"
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
_POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_NOT_NOW: Final = "This cannot be done now; your invitation was not used. Try again in a moment."
_encode = msgspec.json.encode


class Joining:
    """The handlers of ``/join``.

    ``public_url`` is the address that buyers use; without one it is what the request names.
    ``model`` tells a model to try, ``operator`` is who invites.
    """

    def __init__(
        self, invites: Invites, *, public_url: str, operator: str, model: Callable[[], str]
    ) -> None:
        self._invites, self._model = invites, model
        self._public_url, self._operator = public_url.rstrip("/"), operator
        text = resources.files(__package__).joinpath("templates/join.html").read_text("utf-8")
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        self._page = environment.from_string(text)

    def table(self) -> dict[str, Handler]:
        """Handler name -> handler."""
        return {"join_page": self.join_page, "join": self.join}

    async def join_page(self, hit: Hit) -> web.StreamResponse:
        """``GET /join``: the form. It uses nothing up."""
        return self._shown(hit, 200)

    async def join(self, hit: Hit) -> web.StreamResponse:
        """``POST /join``: a code in, as a form or as JSON; a key out, shown once."""
        kind = hit.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body.check_head(hit.request, json=kind != _FORM)
        raw = await body.read(hit.request, _BYTES_MAX)
        if kind != _FORM:
            code = Fields(fields.parse(raw), ("code",)).text("code").strip()
            key, secret = await self._invites.redeem(code)
            return whole(200, _encode(self._told(hit, key, secret)), {"x-request-id": hit.id})
        try:
            key, secret = await self._invites.redeem(_code(raw))
        except Refused as error:
            return self._shown(hit, error.status, wrong=error.message)
        except LedgerUnavailable:
            return self._shown(hit, 503, wrong=_NOT_NOW)
        return self._shown(hit, 200, **self._told(hit, key, secret))

    def _told(self, hit: Hit, key: KeyRow, secret: str) -> dict[str, str]:
        return {
            "object": "key",
            "id": key.id,
            "key": secret,
            "account": key.account,
            "name": key.name,
            "api": f"{self._public_url or _origin(hit)}/v1",
        }

    def _shown(self, hit: Hit, status: int, *, wrong: str = "", **told: str) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        page = self._page.render(
            {"key": "", **told},
            nonce=nonce,
            wrong=wrong,
            operator=self._operator,
            model=self._model(),
            guessed="" if self._public_url else _origin(hit),
        )
        headers = {
            "x-request-id": hit.id,
            "content-security-policy": _POLICY.format(nonce=nonce),
            "referrer-policy": "no-referrer",
        }
        return whole(status, page.encode(), headers, "text/html; charset=utf-8")


def _code(raw: bytes) -> str:
    """The code in a form's body; empty when it cannot be read."""
    try:
        found = parse_qs(raw.decode("ascii"), max_num_fields=4).get("code", [""])
    except ValueError:
        return ""
    return found[0].strip()


def _origin(hit: Hit) -> str:
    """The address that the request came by, as far as it can be told."""
    host = hit.request.headers.get("host", "")
    return f"http://{host if _HOST.fullmatch(host) else 'localhost'}"
