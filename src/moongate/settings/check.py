"""What no single key can tell: names that must exist, clash or belong together."""

import re
from collections.abc import Generator, Iterator
from typing import Final
from urllib.parse import urlsplit

from moongate.core.money import per_million_to_nanos, usd_to_nanos
from moongate.core.request import OWNED
from moongate.settings.check_shared import address, agreement, private_address
from moongate.settings.read import nearest
from moongate.settings.serving import Model, Upstream
from moongate.settings.tables import Alerts, Search, Topups
from moongate.settings.tree import Settings

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PLACED: Final = {
    "ddgs": "asks public pages at their own addresses",
    "moonshot": "searches at the upstream that serves the model",
}
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,127}")


def mistakes(settings: Settings) -> Iterator[str]:
    """Every contradiction in ``settings`` as a sentence."""
    yield from _server(settings)
    seen: set[str] = set()
    for at, upstream in enumerate(settings.upstreams):
        path = f"upstreams[{at}]"
        yield from _upstream(upstream, path)
        if upstream.name in seen:
            yield f"{path}.name is used twice; every upstream needs a name of its own."
        seen.add(upstream.name)
    yield from _search(settings.search)
    yield from _topups(settings.topups)
    yield from _alerts(settings.alerts)
    names: dict[str, str] = {}
    for at, model in enumerate(settings.models):
        yield from _model(settings, model, f"models[{at}]")
        yield from _clashes(model, f"models[{at}]", names)


def _server(settings: Settings) -> Iterator[str]:
    url = settings.store.url
    if not url.startswith(("sqlite:///", "postgresql://")) or url == "sqlite:///":
        yield (
            'store.url takes "sqlite:///FILE" (relative to the home folder) or '
            '"postgresql://user:pass@host/db".'
        )
    elif settings.server.workers > 1 and url.startswith("sqlite"):
        yield (
            "server.workers above 1 needs a PostgreSQL store: set store.url to a "
            "postgresql:// address, or server.workers to 1."
        )
    if settings.server.bodies_bytes_max < settings.server.body_bytes_max:
        yield (
            "server.bodies_bytes_max is less than server.body_bytes_max: a body of the largest "
            "size would never be let in."
        )
    public = settings.server.public_url
    if public:
        yield from address(public, "server.public_url", example="https://api.example.org")
        if urlsplit(public).path.strip("/"):
            yield "server.public_url ends at its host: leave its path out."
    redis = settings.rates.redis_url
    if redis and urlsplit(redis).scheme not in {"redis", "rediss", "valkey", "valkeys", "unix"}:
        yield 'rates.redis_url takes an address like "redis://host:6379/0", or "" for none.'


def _upstream(upstream: Upstream, path: str) -> Iterator[str]:
    if not _NAME.fullmatch(upstream.name):
        yield f"{path}.name takes letters, digits, _, . and -, at most 64 of them."
    if upstream.kind == "embedded":
        if upstream.base_url or upstream.api_key_env or upstream.api_key_file:
            yield f"{path} is the embedded engine: it takes no base_url and no API key."
        if upstream.data_policy != "self-hosted":
            yield f'{path}.data_policy can only be "self-hosted": the engine runs here.'
        if upstream.forward:
            yield f"{path} is the embedded engine: it takes no forward list."
    else:
        yield from address(upstream.base_url, f"{path}.base_url")
    for at, name in enumerate(upstream.forward):
        if name in OWNED:
            yield f"{path}.forward[{at}] is a field that Moongate writes itself; leave it out."
        elif not _FIELD.fullmatch(name):
            yield f"{path}.forward[{at}] takes a field's name: letters, digits and _."
    if upstream.kind == "moonshot" and upstream.data_policy == "self-hosted":
        yield (
            f'{path}.data_policy cannot be "self-hosted": kind "moonshot" is the maker\'s own '
            'service. Say "none", or "contract" with an agreement that you hold.'
        )
    if upstream.shared_cache and upstream.kind not in {"vllm", "sglang"}:
        yield f"{path}.shared_cache is for the kinds vllm and sglang; leave it out."
    if upstream.api_key_env and upstream.api_key_file:
        yield f"{path} names both api_key_env and api_key_file; keep one."
    yield from _credentials(upstream, path)
    yield from agreement(upstream, path, "upstreams.agreement")


def _credentials(upstream: Upstream, path: str) -> Iterator[str]:
    if not upstream.credentials:
        return
    if upstream.kind == "embedded":
        yield f"{path} is the embedded engine: it takes no credentials."
    if upstream.api_key_env or upstream.api_key_file:
        yield f"{path} names an API key of its own beside its credentials; move it into one."
    names: set[str] = set()
    for at, one in enumerate(upstream.credentials):
        here = f"{path}.credentials[{at}]"
        if not _NAME.fullmatch(one.name):
            yield f"{here}.name takes letters, digits, _, . and -, at most 64 of them."
        if one.name in names:
            yield f"{here}.name is used twice; every credential needs a name of its own."
        names.add(one.name)
        if bool(one.api_key_env) == bool(one.api_key_file):
            yield f"{here} takes one of api_key_env and api_key_file."


def _search(search: Search) -> Iterator[str]:
    if search.base_url:
        yield from address(search.base_url, "search.base_url", example="http://127.0.0.1:8080")
        if search.engine in _PLACED:
            yield (
                f'search.base_url has no use: engine "{search.engine}" {_PLACED[search.engine]}. '
                "Remove it, or name the engine that listens there: searxng, tavily or brave."
            )
    elif search.engine == "searxng":
        yield "search.base_url is missing: say where your SearXNG listens."
    if search.engine in ("tavily", "brave") and not (search.api_key_env or search.base_url):
        yield (
            "search.api_key_env is missing: name the variable that holds the key of your account "
            f'with engine "{search.engine}".'
        )
    if search.data_policy == "self-hosted" and search.engine != "searxng":
        yield (
            'search.data_policy can be "self-hosted" only with engine "searxng": the others send '
            "queries to somebody else."
        )
    if search.engine != "moonshot":
        yield from agreement(search, "search", "search.agreement")
    elif search.data_policy != "none" or search.agreement is not None:
        yield (
            'search.data_policy and search.agreement have no use with engine "moonshot": a query '
            "goes where the conversation goes. Remove them, and say it of the upstream."
        )


def _topups(topups: Topups) -> Iterator[str]:
    path = "topups"
    yield from private_address(topups.stripe_base_url, f"{path}.stripe_base_url")
    for name in ("success_url", "cancel_url"):
        if url := getattr(topups, name):
            yield from address(url, f"{path}.{name}", query=True)
    least = yield from _usd(topups.usd_min, f"{path}.usd_min")
    most = yield from _usd(topups.usd_max, f"{path}.usd_max")
    if least and most and least > most:
        yield f"{path}.usd_min is larger than {path}.usd_max."
    if topups.stripe_api_key_env and not topups.stripe_secret_env:
        yield (
            f"{path}.stripe_secret_env is missing: buyers could pay, and nothing would credit "
            "them. Name the variable that holds the webhook's signing secret."
        )
    if topups.stripe_api_key_env and not topups.success_url:
        yield f"{path}.success_url is missing: say where a buyer lands who has paid."


def _alerts(alerts: Alerts) -> Iterator[str]:
    yield from _usd(alerts.low_balance_usd, "alerts.low_balance_usd")
    if alerts.webhook_url:
        yield from private_address(alerts.webhook_url, "alerts.webhook_url")
        if not alerts.webhook_secret_env:
            yield (
                "alerts.webhook_secret_env is missing: name the variable that holds the secret "
                "with which the receiver knows our word."
            )


def _usd(text: str, path: str) -> Generator[str, None, int | None]:
    """The amount in nano-dollars; ``None``, and a sentence, when it is none above zero."""
    try:
        nanos = usd_to_nanos(text)
    except ValueError:
        nanos = 0
    if nanos > 0:
        return nanos
    yield f'{path} takes dollars above zero in quotes, like "5.00".'
    return None


def _model(settings: Settings, model: Model, path: str) -> Iterator[str]:
    if not _MODEL.fullmatch(model.id):
        yield f"{path}.id takes letters, digits and _ . / : -, at most 128 of them."
    if model.output_tokens_default > model.window:
        yield f"{path}.output_tokens_default is larger than the window."
    yield from _prices(model, path)
    names = [upstream.name for upstream in settings.upstreams]
    known = True
    for at, target in enumerate(model.targets):
        try:
            per_million_to_nanos(target.cost)
        except ValueError:
            known = False
            yield f'{path}.targets[{at}].cost takes USD per million tokens in quotes, like "0.30".'
        if target.upstream not in names:
            known = False
            yield (
                f"{path}.targets[{at}].upstream names no upstream of this configuration"
                + (nearest(target.upstream, names) or f"; there is {', '.join(names)}.")
            )
    if not model.targets:
        yield f"{path}.targets is empty: say where the model is served."
    elif known and not settings.targets(model):
        yield (
            f'privacy.require is "{settings.privacy.require}", and no target of {path} has a '
            "data policy that good: give it such a target, or lower what is required."
        )


def _prices(model: Model, path: str) -> Iterator[str]:
    for name in ("input", "cached", "output"):
        try:
            per_million_to_nanos(getattr(model.price, name))
        except ValueError as error:
            yield (
                f"{path}.price.{name} is {error}. It takes USD per million tokens in quotes, "
                'like "0.48".'
                if "amount" in str(error)
                else f"{path}.price.{name}: {error}."
            )
    if "search" in model.abilities and not model.price.search:
        yield (
            f"{path}.price.search is missing: a model with the ability search needs a price for "
            'one call, like "0.005"; without a price there is no service.'
        )
    if model.price.search:
        try:
            fine = usd_to_nanos(model.price.search) >= 0
        except ValueError:
            fine = False
        if not fine:
            yield f'{path}.price.search takes USD per call in quotes, like "0.005".'
    for name, text in model.list_price.items():
        if name not in {"input", "cached", "output"}:
            yield f"{path}.list_price.{name} is not a setting; known here: input, cached, output."
            continue
        try:
            per_million_to_nanos(text)
        except ValueError:
            yield f'{path}.list_price.{name} takes USD per million tokens in quotes, like "0.60".'


def _clashes(model: Model, path: str, names: dict[str, str]) -> Iterator[str]:
    for field, name in [("id", model.id), *[("aliases", alias) for alias in model.aliases]]:
        if field == "aliases" and not _MODEL.fullmatch(name):
            yield f"{path}.aliases takes letters, digits and _ . / : -, at most 128 of them."
        if name in names:
            yield f"{path}.{field} holds a name that {names[name]} has already."
        names.setdefault(name, f"{path}.{field}")
