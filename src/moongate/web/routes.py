"""Every route, each with its policy: who may call, what it costs, its limit, what it keeps.

A route without a complete policy stops the start. What is not in the table does not exist.
"""

from collections.abc import Collection
from typing import Final, Literal, get_args

import msgspec

from moongate.core.errors import ConfigurationError, Refused

Auth = Literal["key", "admin", "public", "operator", "code", "signature"]
"""``key``: a bearer key. ``admin``: an admin key. ``public``: nobody is asked. ``operator``: as
the setting ``server.metrics`` says. ``code``: a one-time code in the body. ``signature``: the body
is signed with a secret that the caller shares. The last two the handler judges, before anything
else. On the admin socket the file's mode is the credential."""
Money = Literal["hold", "free"]
Limit = Literal["gate", "requests", "none"]
"""``gate``: the handler passes the whole gate. ``requests``: the door takes one request of the
rates of the key and its account, no tokens and no place among the answers."""
Retention = Literal["nothing", "usage-row", "operator-rows", "key-row", "ledger-entries"]


class Route(msgspec.Struct, frozen=True):
    """One route. ``path`` may hold one ``{name}``, which takes the rest up to what follows it.

    ``handler`` names a method of the handlers. ``summary`` is what the reference says. A route
    that is ``optional`` exists only where its handler is given.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: str
    auth: Auth | None = None
    money: Money | None = None
    limit: Limit | None = None
    keeps: Retention | None = None
    summary: str = ""
    optional: bool = False

    @property
    def prefix(self) -> str | None:
        """The fixed part before a parameter."""
        return self.path[: self.path.index("{")] if "{" in self.path else None

    @property
    def suffix(self) -> str:
        """The fixed part behind a parameter."""
        return self.path.partition("}")[2]

    @property
    def parameter(self) -> str:
        """The parameter's name; nothing where there is none."""
        return self.path.partition("{")[2].partition("}")[0]


ROUTES: Final = (
    Route(
        "POST", "/v1/chat/completions", "chat", "key", "hold", "gate", "usage-row",
        "An answer of the model, streamed or whole.",
    ),
    Route(
        "POST", "/v1/tokenizers/estimate-token-count", "estimate", "key", "free", "gate", "nothing",
        "How many prompt tokens a request would be charged for; nothing is generated.",
    ),
    Route(
        "POST", "/v1/search", "search", "key", "hold", "gate", "usage-row",
        "A search of the web, outside a chat; only where an engine of ours searches.",
        optional=True,
    ),
    Route(
        "POST", "/apis/v1/tavily/search", "tavily_search", "key", "hold", "gate", "usage-row",
        "The same in Tavily's form, for clients that speak it.",
        optional=True,
    ),
    Route(
        "GET", "/v1/models", "models", "key", "free", "none", "nothing",
        "The models on offer: window, abilities, price.",
    ),
    Route(
        "GET", "/v1/models/{id}", "model", "key", "free", "none", "nothing",
        "One model by id or alias.",
    ),
    Route(
        "POST", "/v1/files", "upload", "key", "free", "requests", "nothing",
        "Takes a picture, a video or a document in; kept in memory for at most an hour.",
    ),
    Route(
        "GET", "/v1/files", "files", "key", "free", "requests", "nothing",
        "Your account's uploaded files.",
    ),
    Route(
        "GET", "/v1/files/{id}", "file", "key", "free", "requests", "nothing",
        "One uploaded file: its name, purpose and state.",
    ),
    Route(
        "DELETE", "/v1/files/{id}", "forget", "key", "free", "requests", "nothing",
        "Forgets an uploaded file at once.",
    ),
    Route(
        "GET", "/v1/files/{id}/content", "content", "key", "free", "requests", "nothing",
        "The text that was found in an uploaded document.",
    ),
    Route(
        "GET", "/v1/pricing", "pricing", "public", "free", "none", "nothing",
        "What bills: each model's price in force, those to come, and the official list beside it.",
    ),
    Route(
        "GET", "/v1/data-policy", "data_policy", "public", "free", "none", "nothing",
        "Where content may go, under which promise; what is kept, and what never is.",
    ),
    Route(
        "POST", "/v1/topups", "topup", "key", "free", "requests", "nothing",
        "A hosted checkout that adds credit to the key's account; only where one is configured.",
        optional=True,
    ),
    Route(
        "POST", "/webhooks/stripe", "stripe_event", "signature", "free", "none", "ledger-entries",
        "Stripe's signed events; only where topups.stripe_secret_env is set.",
        optional=True,
    ),
    Route(
        "GET", "/join", "join_page", "public", "free", "none", "nothing",
        "The page of an invitation.",
    ),
    Route(
        "POST", "/join", "join", "code", "free", "none", "key-row",
        "Uses an invitation up and shows the key that it makes, once.",
    ),
    Route(
        "GET", "/v1/receipts/key", "receipt_key", "public", "free", "none", "nothing",
        "The public key that receipts are checked with.",
    ),
    Route(
        "GET", "/v1/receipts/{request}", "receipt", "key", "free", "none", "nothing",
        "The signed receipt of one of your requests: what it used, at which price, and its charge.",
    ),
    Route(
        "GET", "/v1/usage", "usage", "key", "free", "requests", "nothing",
        "Your account's counts and exact money: from, to, group_by=day, key or model.",
    ),
    Route(
        "GET", "/v1/invoices/{month}", "invoice", "key", "free", "requests", "nothing",
        "Your account's invoice of a month (YYYY-MM), as a page to print; format=json: as data.",
    ),
    Route(
        "GET", "/v1/users/me/balance", "balance", "key", "free", "none", "nothing",
        "What your account can still spend, in US dollars, as at Moonshot.",
    ),
    Route(
        "GET", "/healthz", "healthz", "public", "free", "none", "nothing",
        "200 while the process runs.",
    ),
    Route(
        "GET", "/readyz", "readyz", "public", "free", "none", "nothing",
        "200 while new requests are welcome: store writable, not draining.",
    ),
    Route(
        "GET", "/metrics", "metrics", "operator", "free", "none", "nothing",
        "Prometheus metrics; who may read them is the setting server.metrics.",
    ),
    Route(
        "GET", "/openapi.json", "openapi", "public", "free", "none", "nothing",
        "This interface as an OpenAPI 3.1 document.",
    ),
    Route(
        "GET", "/", "index", "public", "free", "none", "nothing",
        "A few lines of text: where to go from here.",
    ),
    Route(
        "GET", "/admin/v1/{rest}", "admin", "admin", "free", "none", "operator-rows",
        "What the operator's commands read.",
    ),
    Route(
        "POST", "/admin/v1/{rest}", "admin", "admin", "free", "none", "operator-rows",
        "What the operator's commands change.",
    ),
)  # fmt: skip


def check(routes: tuple[Route, ...]) -> None:
    """Raise ConfigurationError naming the first route whose policy is not complete."""
    wanted = {"auth": Auth, "money": Money, "limit": Limit, "keeps": Retention}
    for route in routes:
        for field, allowed in wanted.items():
            if getattr(route, field) not in get_args(allowed):
                raise ConfigurationError(
                    f"The route {route.method} {route.path} declares no {field} policy; "
                    f"it must be one of {', '.join(get_args(allowed))}."
                )
        if route.limit == "requests" and route.auth not in {"key", "admin"}:
            raise ConfigurationError(
                f"The route {route.method} {route.path} counts requests: it needs a key."
            )
        if route.money == "hold" and (route.auth != "key" or route.limit != "gate"):
            raise ConfigurationError(
                f"The route {route.method} {route.path} costs money: it needs a key and the gate."
            )


class Router:
    """Finds the route of a method and raw path. Built once; raises for an incomplete table.

    ``handlers`` are the names of those that are there. A route that has none does not exist when
    it is optional, and stops the start when it is not.
    """

    def __init__(
        self, routes: tuple[Route, ...] = ROUTES, handlers: Collection[str] | None = None
    ) -> None:
        check(routes)
        if handlers is not None:
            routes = tuple(route for route in routes if _handled(route, handlers))
        self._exact: dict[str, dict[str, Route]] = {}
        self._around: dict[tuple[str, str], dict[str, Route]] = {}
        """By what stands before a parameter and behind it; those with something behind come last.
        """
        for route in sorted(routes, key=lambda route: bool(route.suffix)):
            if route.prefix is None:
                self._exact.setdefault(route.path, {})[route.method] = route
            else:
                around = route.prefix, route.suffix
                self._around.setdefault(around, {})[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """The route and the rest of the path. Raises Refused (404) or WrongMethod (405)."""
        found, rest = self._exact.get(path), ""
        if found is None:
            for (prefix, suffix), methods in self._around.items():
                inner = path.removeprefix(prefix).removesuffix(suffix)
                if inner and path == prefix + inner + suffix:
                    found, rest = methods, inner
        if found is None:
            raise Refused("unknown_url")
        route = found.get("GET" if method == "HEAD" else method)
        if route is None:
            raise WrongMethod(tuple(found))
        return route, rest


def _handled(route: Route, handlers: Collection[str]) -> bool:
    if route.handler not in handlers and not route.optional:
        raise ConfigurationError(f"The route {route.method} {route.path} has no handler.")
    return route.handler in handlers


class WrongMethod(Refused):
    """405, with the methods that the path takes."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__("method_not_allowed")
        self._allowed = allowed

    def headers(self) -> dict[str, str]:
        return {"allow": ", ".join(self._allowed)}
