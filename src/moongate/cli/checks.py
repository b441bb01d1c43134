"""What `doctor` looks at: home, disk, clock, store, receipts, upstreams, models, engine, policies.

A look is ``ok``, a ``warning`` (it works, but know this) or ``broken``; its detail says what to
do. Looks at upstreams and ledger go through the running server where there is one.
"""

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import moongate
from moongate.cli.check import Check, State, asked
from moongate.cli.desk import Desk
from moongate.cli.screen import day, tokens
from moongate.cli.search_checks import search_checks
from moongate.cli.store_checks import store_checks
from moongate.core.errors import MoongateError
from moongate.home import Home, advising
from moongate.ledger.receipt import key_id
from moongate.settings import Settings
from moongate.upstream import engine_checks

FSYNC_HONEST_US: Final = 50.0
"""A sync below this many microseconds did not reach a disk that keeps it."""
_FSYNC_ROUNDS: Final = 25
_FREE_BYTES_MIN: Final = 500 * 2**20
_KEY_BYTES: Final = 32
_SKEW_S: Final = 5.0


def look_around(
    desk: Desk, settings: Settings, server: dict[str, Any] | None, *, search: bool = False
) -> Iterator[Check]:
    """Every look, in order; one that fails does not keep the rest from running.

    ``server`` is what a server that runs here tells of itself. ``search``: one search is made.
    """
    yield Check("server", "ok", _server(desk, server))
    try:
        desk.home.open()
    except MoongateError as error:
        yield Check("home", "broken", str(error))
        return
    yield _home(desk.home)
    yield _fsync(desk.home)
    yield _clock(desk.home)
    told: set[str] = set()
    for check in (
        *store_checks(desk, settings, server),
        *_prices(desk, settings),
        *_upstreams(desk, settings),
        *_models(desk, settings),
    ):
        # A cause that stops several looks is told once.
        if check.state != "broken" or check.detail not in told:
            yield check
        told.add(check.detail)
    yield _receipts(desk.home)
    if any(upstream.kind == "embedded" for upstream in settings.upstreams):
        yield from _engine(desk.home, settings)
    yield from search_checks(desk, settings, live=search)
    yield from _policies(settings)


def _server(desk: Desk, server: dict[str, Any] | None) -> str:
    if server is not None:
        return f"running here: {server.get('api')}, process {server.get('pid')}"
    return "running here" if desk.running else "none runs on this home folder"


def _home(home: Home) -> Check:
    free = shutil.disk_usage(home.path).free
    mode = home.path.stat().st_mode & 0o777
    detail = f"{home.path}, mode {mode:04o}, {free / 1e9:.1f} GB free"
    if free < _FREE_BYTES_MIN:
        return Check("home", "warning", f"{detail}: make room, or billing will stop.")
    if mode & 0o022:
        return Check("home", "warning", f"{detail}: others may write there; chmod 700.")
    return Check("home", "ok", detail)


def _receipts(home: Home) -> Check:
    """The key that customers check their receipts with."""
    try:
        public = bytes.fromhex(home.receipt_key.read_text("ascii", "replace"))
        name = key_id(public) if len(public) == _KEY_BYTES else ""
    except FileNotFoundError:
        return Check("receipts", "ok", "the next start writes the public key")
    except (OSError, ValueError):
        name = ""
    if not name:
        return Check(
            "receipts", "broken", f"{home.receipt_key} holds no key: delete it, start anew."
        )
    return Check("receipts", "ok", f"signed with key {name}, public key {public.hex()}")


def _fsync(home: Home) -> Check:
    """How long a small durable write takes: what a charge waits for."""
    path = home.path / f".fsync-{uuid4().hex}"
    times: list[float] = []
    try:
        with advising(path), path.open("wb", buffering=0) as file:
            for _ in range(_FSYNC_ROUNDS):
                begin = time.perf_counter()
                file.write(bytes(4096))
                os.fsync(file.fileno())
                times.append((time.perf_counter() - begin) * 1e6)
    except MoongateError as error:
        return Check("fsync", "broken", str(error))
    finally:
        path.unlink(missing_ok=True)
    return judge_fsync(statistics.median(times))


def judge_fsync(median_us: float) -> Check:
    """What a median sync time says, in microseconds."""
    detail = f"{median_us / 1000:.2f} ms a sync (median of {_FSYNC_ROUNDS})"
    if median_us < FSYNC_HONEST_US:
        return Check(
            "fsync",
            "warning",
            f"{detail}: faster than a disk that keeps what it is told. After a power loss the "
            "ledger may lack its last entries; put the home folder on a real disk.",
        )
    return Check("fsync", "ok", detail)


def _clock(home: Home) -> Check:
    """Compare the clock with the disk's and with the day that this was installed."""
    now = time.time()
    probe = home.path / f".clock-{uuid4().hex}"
    try:
        with advising(probe):
            probe.touch()
            skew = abs(probe.stat().st_mtime - now)
    except MoongateError as error:
        return Check("clock", "broken", str(error))
    finally:
        probe.unlink(missing_ok=True)
    installed = Path(moongate.__file__).stat().st_mtime
    return judge_clock(now, installed, skew)


def judge_clock(now: float, installed: float, skew: float) -> Check:
    """What wall time, time of installation and skew against the disk say (seconds)."""
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < installed - 86_400:
        return Check(
            "clock", "broken", f"{told} lies before this was installed: set the machine's clock."
        )
    if skew > _SKEW_S:
        return Check("clock", "warning", f"{told}; the disk's clock is {skew:.0f} s apart.")
    return Check("clock", "ok", told)


def _prices(desk: Desk, settings: Settings) -> Iterator[Check]:
    answer, trouble = asked(desk, "prices", "/prices")
    if trouble is not None:
        return
    known = {row["model"]: row for row in answer["data"] if row["in_force"]}
    for model, price in settings.prices().items():
        row = known.get(model)
        if row is None:
            yield Check("prices", "ok", f"{model}: the next start writes its first price row")
            continue
        stored = (row["input_nanos"], row["cached_nanos"], row["output_nanos"], row["search_nanos"])
        if stored == (price.input, price.cached, price.output, price.search):
            yield Check("prices", "ok", f"{model}: in force since {day(row['from_ms'])}")
        else:
            yield Check(
                "prices",
                "warning",
                f"{model}: the configuration's price differs from the one in force, which holds; "
                "`moongate prices set` changes it.",
            )


def _upstreams(desk: Desk, settings: Settings) -> Iterator[Check]:
    answer, trouble = asked(desk, "upstreams", "/upstreams")
    if trouble is not None:
        yield trouble
        return
    wanted: dict[str, set[str]] = {}
    for card in settings.cards():
        for target in card.targets:
            wanted.setdefault(target.name, set()).add(target.model)
    for row in answer["data"]:
        name = f"upstream {row['name']}"
        if row["kind"] == "embedded" and not desk.running:
            yield Check(name, "ok", "starts with the server")
            continue
        if not row["ok"]:
            yield Check(name, "broken", row["detail"])
            continue
        listed = row["models"]
        lacking = sorted(wanted.get(row["name"], set()) - set(listed or ()))
        if listed is not None and lacking and row["kind"] != "embedded":
            yield Check(
                name,
                "broken",
                f"does not list {', '.join(lacking)}: point the target at a model that it lists, "
                "or serve the open weights with vLLM, SGLang or an OpenAI-compatible host.",
            )
        else:
            yield Check(name, "ok", row["stand_in"] or row["detail"])


def _models(desk: Desk, settings: Settings) -> Iterator[Check]:
    """What each model can do where it is served now; its card may promise more."""
    answer, trouble = asked(desk, "models", "/models")
    if trouble is not None:
        return
    own = {up.name for up in settings.upstreams if up.kind == "embedded"}
    own = own if settings.embedded.model and not desk.running else set()
    cards = {card.id: card for card in settings.cards()}
    for row in answer["data"]:
        name, card = f"model {row['id']}", cards.get(row["id"])
        if row["upstream"] in own:
            said = "a model file of your own: its window and abilities are known once it runs"
            yield Check(name, "ok", f"{row['upstream']}: {said}")
            continue
        window = f"a window of {tokens(row['context_length'])} tokens"
        if card is not None and card.window != row["context_length"]:
            window += f" (its card: {tokens(card.window)})"
        said = f"{row['upstream']} serves {window}; {', '.join(row['abilities']) or 'chat alone'}"
        lacking = sorted(card.abilities - {*row["abilities"]}) if card is not None else []
        if lacking:
            said += f"; not, as its card has it: {', '.join(lacking)}"
        yield Check(name, "ok", said)


def _engine(home: Home, settings: Settings) -> Iterator[Check]:
    own, projector = settings.embedded.model, settings.embedded.projector
    looks = engine_checks.check(
        home.models, Path(own) if own else None, Path(projector) if projector else None
    )
    for look in looks:
        # The stand-in's file mends itself at the next start.
        trouble: State = "warning" if look.name == "model" and not own else "broken"
        yield Check(f"engine {look.name}", "ok" if look.ok else trouble, look.detail)


def _policies(settings: Settings) -> Iterator[Check]:
    for upstream in settings.upstreams:
        name = f"policy {upstream.name}"
        if upstream.data_policy == "none":
            yield Check(name, "warning", "none: nothing says what happens there to what is sent.")
        elif upstream.agreement is not None:
            held = upstream.agreement
            yield Check(name, "ok", f"contract: {held.title}, effective {held.effective}")
        else:
            yield Check(name, "ok", upstream.data_policy)
