"""The tables of the configuration file that are given once: key, type, default and meaning.

The meaning beside each key is what ``docs/configuration.md`` prints. A field without one is
no key of the file: :mod:`moongate.settings.load` fills it from the environment or a file.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from moongate.core.cards import DataPolicy
from moongate.settings.secret import Secret, Table
from moongate.settings.serving import Agreement, keeps_nothing


class Server(Table, frozen=True, kw_only=True):
    """``[server]``: how we listen."""

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")
    ] = 8000
    workers: Annotated[
        int, Meta(ge=1, le=256, description="processes; more than one needs a PostgreSQL store")
    ] = 1
    body_bytes_max: Annotated[
        int, Meta(ge=1024, le=2**31, description="largest request body, in bytes")
    ] = 104_857_600
    bodies_bytes_max: Annotated[
        int,
        Meta(
            ge=1024,
            le=2**40,
            description="request bodies in memory at once, in bytes a process; no less than "
            "body_bytes_max",
        ),
    ] = 536_870_912
    drain_s: Annotated[
        float, Meta(ge=0, le=3600, description="seconds that running answers get after SIGTERM")
    ] = 30.0
    hosts: Annotated[
        tuple[str, ...],
        Meta(description="allowed Host names; empty allows any, which suits loopback alone"),
    ] = ()
    public_url: Annotated[
        str, Meta(description="address that buyers use, without a path; empty: as we listen")
    ] = ""
    metrics: Annotated[
        Literal["loopback", "key", "off"],
        Meta(description="who may read /metrics: loopback, holders of an admin key, nobody"),
    ] = "loopback"


class Store(Table, frozen=True, kw_only=True):
    """``[store]``: where rows live."""

    url: Annotated[
        str, Meta(description="where rows live; a relative SQLite file lies in the home folder")
    ] = "sqlite:///moongate.db"

    def file(self, home: Path) -> Path | None:
        """The SQLite file, relative ones under ``home``; ``None`` for another kind of store."""
        prefix = "sqlite:///"
        return home / self.url.removeprefix(prefix) if self.url.startswith(prefix) else None


class Rates(Table, frozen=True, kw_only=True):
    """``[rates]``: where rates are counted."""

    redis_url: Annotated[
        str, Meta(description="Redis or Valkey that shares rates between replicas")
    ] = ""


class Search(Table, frozen=True, kw_only=True):
    """``[search]``: who searches the web."""

    engine: Annotated[
        Literal["ddgs", "searxng", "tavily", "brave", "moonshot"],
        Meta(description="who searches the web; moonshot: the model's maker itself"),
    ] = "ddgs"
    base_url: Annotated[
        str, Meta(description="its address; needed for searxng, else the service's own")
    ] = ""
    api_key_env: Annotated[
        str,
        Meta(description="environment variable that holds its key; needed for tavily and brave"),
    ] = ""
    data_policy: Annotated[
        DataPolicy,
        Meta(description="what happens there to a query; self-hosted is for searxng alone"),
    ] = "none"
    pages: Annotated[
        bool, Meta(description="read the pages of the first results, beside what the engine says")
    ] = True
    agreement: Annotated[
        Agreement | None, Meta(description="the agreement that makes it a contract")
    ] = None
    api_key: Secret | None = None

    def keeps_nothing(self) -> bool:
        """Whether keys that demand zero retention may search with this engine."""
        return keeps_nothing(self.data_policy, self.agreement)


class Privacy(Table, frozen=True, kw_only=True):
    """``[privacy]``: what every request may rely on."""

    require: Annotated[
        DataPolicy, Meta(description="the least data policy that any request may be sent to")
    ] = "none"


class Routing(Table, frozen=True, kw_only=True):
    """``[routing]``: who may say where a request goes."""

    preferences: Annotated[
        tuple[str, ...],
        Meta(description='accounts that may name upstreams in request headers; "*" is all of them'),
    ] = ()


class Operator(Table, frozen=True, kw_only=True):
    """``[operator]``: who runs this."""

    name: Annotated[str, Meta(description="who runs this, as invoices say it")] = ""
    contact: Annotated[str, Meta(description="how to reach them")] = ""
    url: Annotated[str, Meta(description="their page")] = ""


class Embedded(Table, frozen=True, kw_only=True):
    """``[embedded]``: the engine that runs here."""

    model: Annotated[str, Meta(description="a GGUF file of yours; empty: the stand-in")] = ""
    projector: Annotated[str, Meta(description="its vision projector")] = ""
    slots: Annotated[int, Meta(ge=1, le=64, description="answers generated at once")] = 4
    cache_tokens: Annotated[
        int,
        Meta(ge=0, le=2**24, description="tokens of earlier prompts and answers kept for reuse"),
    ] = 8192


class Media(Table, frozen=True, kw_only=True):
    """``[media]``: pictures by address, and files that are uploaded."""

    fetch: Annotated[bool, Meta(description="fetch http(s) pictures; false refuses them")] = True
    files_max: Annotated[
        int, Meta(ge=0, le=100_000, description="uploaded files an account; 0 takes no uploads")
    ] = 1000
    file_bytes_max: Annotated[
        int, Meta(ge=1024, le=2**31, description="largest uploaded file, in bytes")
    ] = 100_000_000
    files_account_bytes_max: Annotated[
        int, Meta(ge=1024, le=2**40, description="uploads kept in memory for one account, in bytes")
    ] = 268_435_456
    files_bytes_max: Annotated[
        int, Meta(ge=1024, le=2**40, description="uploads kept in memory in all, in bytes")
    ] = 536_870_912
    files_kept_s: Annotated[
        float, Meta(ge=1, le=3600, description="seconds that an upload is kept")
    ] = 3600.0


class Ledger(Table, frozen=True, kw_only=True):
    """``[ledger]``: how money is set aside."""

    hold_first: Annotated[
        int, Meta(ge=1, le=2**31, description="output tokens held before the model is asked")
    ] = 4096
    hold_step: Annotated[
        int, Meta(ge=1, le=2**31, description="output tokens that each extension asks for")
    ] = 8192
    hold_low: Annotated[
        int, Meta(ge=0, le=2**31, description="extend when fewer covered tokens are left")
    ] = 1024
    crash_settlement: Annotated[
        Literal["void", "checkpoint"],
        Meta(
            description="what an answer costs whose server died: nothing, or what was counted "
            "when its lease was last renewed"
        ),
    ] = "void"


class Topups(Table, frozen=True, kw_only=True):
    """``[topups]``: how buyers pay in."""

    stripe_secret_env: Annotated[
        str, Meta(description="environment variable with Stripe's webhook secret; none, no webhook")
    ] = ""
    stripe_api_key_env: Annotated[
        str, Meta(description="environment variable with Stripe's API key, to open checkouts")
    ] = ""
    success_url: Annotated[str, Meta(description="where a buyer lands who has paid")] = ""
    cancel_url: Annotated[str, Meta(description="where a buyer lands who has not")] = ""
    usd_min: Annotated[str, Meta(description="least top-up, USD")] = "5.00"
    usd_max: Annotated[str, Meta(description="largest top-up, USD")] = "500.00"
    stripe_base_url: Annotated[str, Meta(description="Stripe's API; for tests")] = (
        "https://api.stripe.com"
    )
    stripe_secret: Secret | None = None
    stripe_api_key: Secret | None = None


class Alerts(Table, frozen=True, kw_only=True):
    """``[alerts]``: what the operator is told of, and where."""

    webhook_url: Annotated[
        str, Meta(description="address that is told when a balance is low; empty: nobody is")
    ] = ""
    webhook_secret_env: Annotated[
        str, Meta(description="environment variable with the secret that signs what it is told")
    ] = ""
    low_balance_usd: Annotated[str, Meta(description="a balance is low below this, USD")] = "1.00"
    webhook_secret: Secret | None = None
