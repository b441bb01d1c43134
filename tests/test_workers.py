"""Several workers around one socket: started, told of once, replaced, drained, never orphans.

Each worker has a store of its own in memory here: what they share through PostgreSQL is tested
elsewhere.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from live_kit import short_folder
from moongate.app import application, run
from moongate.cli.line import Line
from moongate.core.errors import ConfigurationError
from moongate.core.money import Price
from moongate.core.rows import PriceRow
from moongate.home import Home
from moongate.metrics import Metrics, merged
from moongate.settings import load
from moongate.store.memory import MemoryStore
from workers_kit import CONFIG, Crew, crew, gone, until

UPSTREAM = "http://127.0.0.1:9/v1"
REMARK = "It was said by every worker."


class Own(MemoryStore):
    """A store in memory that has the price, as if worker 1 had put it there."""

    async def open(self) -> None:
        await self.price_add(PriceRow(0, "kimi-k2.5", Price(480, 100, 2000), 1))


def in_memory() -> None:
    application.make_store = lambda *_: Own()


def talkative() -> None:
    """Every worker says the same at its start, and worker 2 cannot start."""
    in_memory()
    start = application.Application.start

    async def said(self: application.Application) -> None:
        self.announce({"event": "note", "text": REMARK})
        if self.place.number == 2:
            raise ConfigurationError("Worker 2 has no luck.")
        await start(self)

    application.Application.start = said


def unlucky() -> None:
    in_memory()

    async def failed(_: application.Application) -> None:
        raise ConfigurationError("There is no database.")

    application.Application.start = failed


@contextlib.contextmanager
def three(
    change: Callable[[], None] = in_memory, *, drain_s: float = 3, ready: bool = True
) -> Iterator[Crew]:
    config = CONFIG.format(
        workers=3, drain_s=drain_s, store="postgresql://nobody@127.0.0.1:9/none", upstream=UPSTREAM
    )
    with short_folder() as folder, crew(folder, config, change, ready=ready) as it:
        yield it


def replace(it: Crew, victim: int, how: signal.Signals) -> None:
    """Send a worker a signal that ends it, and wait until another has its place."""
    os.kill(victim, how)
    until(lambda: len(it.pids()) == 3 and victim not in it.pids(), "new worker")


def refused(it: Crew) -> tuple[int, bytes]:
    return it.ask("/v1/chat/completions", {}, key="mg-x")


def test_one_start_is_told_once_and_every_worker_answers():
    with three() as it:
        (ready,) = it.told("ready")
        assert ready["workers"] == 3
        assert len(it.told("key")) == 1
        pids = it.pids()
        assert len(pids) == 3
        assert it.everyone(lambda: refused(it)) == {401}
        modes = {path.name: path.stat().st_mode & 0o777 for path in it.home.glob("*.sock")}
        names = ("admin.sock", "worker-1.sock", "worker-2.sock", "worker-3.sock")
        assert modes == dict.fromkeys(names, 0o600)
        assert it.stop() == 0
        assert [one["event"] for one in it.events][-2:] == ["draining", "stopped"]
        assert all(gone(pid) for pid in pids)
        assert not list(it.home.glob("*.sock"))


def test_whoever_is_asked_tells_the_metrics_of_all():
    with three() as it:
        it.everyone(lambda: refused(it))
        counted = sum(it.counts().values())
        status, text = it.ask("/metrics")
        assert status == 200
        assert f'moongate_refusals_total{{status="401"}} {float(counted)}' in text.decode()
        assert "moongate_workers 3.0\n" in text.decode()
        # One that is stopped does not hold the others up, and the figures say that it is missing.
        stopped = it.pids()[-1]
        os.kill(stopped, signal.SIGSTOP)
        try:
            told = [text for _ in range(4) if (text := asked_in_time(it))]
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert any("moongate_workers 2.0\n" in text for text in told)


def asked_in_time(it: Crew) -> str:
    """The metrics of whoever answers; a call that the stopped worker took is given up."""
    try:
        return it.ask("/metrics", timeout_s=2)[1].decode()
    except TimeoutError:
        return ""


def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on():
    with three() as it:
        first, *others = it.pids()
        for victim in (first, others[0]):
            replace(it, victim, signal.SIGKILL)
        until(lambda: len(it.counts()) == 3, "socket of each worker")
        assert it.everyone(lambda: refused(it)) == {401}
        assert others[1] in it.pids()
        ended = [(one["worker"], one["kind"]) for one in it.log() if one["event"] == "worker_ended"]
        assert ended == [(1, "signal_9"), (2, "signal_9")]
        assert len(it.told("ready")) == 1
        assert it.stop() == 0


def test_commands_are_answered_whichever_worker_dies():
    with three() as it:
        line = Line(it.home / "admin.sock")
        for _ in range(3):
            victim = it.pids()[0]
            os.kill(victim, signal.SIGKILL)
            for _ in range(5):
                assert line.call("GET", "/admin/v1/server")["pid"] == it.process.pid
            until(lambda v=victim: len(it.pids()) == 3 and v not in it.pids(), "new worker")
        # With none at all they wait for the next.
        for pid in it.pids():
            os.kill(pid, signal.SIGKILL)
        assert line.call("GET", "/admin/v1/server")["pid"] == it.process.pid
        assert (it.home / "admin.sock").stat().st_mode & 0o777 == 0o600
        assert it.stop() == 0
        assert not (it.home / "admin.sock").exists()


def test_sigterm_to_one_worker_replaces_it_and_tells_nobody():
    with three() as it:
        victim = it.pids()[1]
        replace(it, victim, signal.SIGTERM)
        assert [one["kind"] for one in it.log() if one["event"] == "worker_ended"] == ["drained"]
        assert not it.told("draining")


def test_a_ctrl_c_that_reaches_the_workers_as_well_is_one_order_not_two():
    with three() as it:
        pids = it.pids()
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        assert it.everyone(lambda: refused(it)) == {401}
        assert it.pids() == pids


def test_workers_whose_supervisor_is_killed_leave():
    with three() as it:
        pids = it.pids()
        it.process.kill()
        until(lambda: all(gone(pid) for pid in pids), "end of every worker", 10)


def test_notes_are_told_once_and_a_worker_that_cannot_start_is_tried_again():
    with three(talkative) as it:
        lucky = [one["text"] for one in it.told("note")]
        assert lucky.count(REMARK) == 1
        assert lucky.count("Worker 2 has no luck.") == 1
        starts = [one for one in it.log() if one["event"] == "worker_started"]
        until(lambda: len([o for o in it.log() if o["event"] == "worker_started"]) > 4, "a retry")
        assert {one["worker"] for one in starts} == {1, 2, 3}
        assert len(it.pids()) >= 2
        assert it.stop() == 0


def test_a_first_worker_that_cannot_start_ends_the_start(capfd):
    with three(unlucky, ready=False) as it:
        it.process.join(20)
        assert it.process.exitcode == 1
        assert "There is no database." in (it.home.parent / "log").read_text()
        assert it.events == []


def test_a_second_server_on_the_home_folder_is_refused():
    with three() as it, pytest.raises(ConfigurationError) as caught, Home(it.home).occupied():
        pass
    assert f"(process {it.process.pid}) serves from" in str(caught.value)


def test_several_workers_need_a_store_that_they_can_share(tmp_path):
    settings = load(None, {}).with_server(workers=2)
    with pytest.raises(ConfigurationError, match="--workers above 1 needs a PostgreSQL store"):
        run(settings, Home(tmp_path / "home").open(), lambda _: None)


def test_figures_of_several_processes_are_added():
    one, two = Metrics(), Metrics()
    for metrics, times in ((one, 2), (two, 3)):
        for _ in range(times):
            metrics.timed("kimi-k2.5", 100, 2000)
        metrics.running.set(times)
        metrics.drift.set(7)
    two.refusals.labels("429").inc()
    text = merged([one.text(), two.text()]).decode()
    assert 'moongate_first_token_seconds_count{model="kimi-k2.5"} 5.0' in text
    assert 'moongate_first_token_seconds_bucket{le="0.1",model="kimi-k2.5"} 5.0' in text
    assert 'moongate_refusals_total{status="429"} 1.0' in text
    assert "moongate_requests_running 5.0" in text
    assert "moongate_workers 2.0" in text
    assert "moongate_ledger_drift_nano_usd 7.0" in text
    began = [
        metrics.text().decode().split("seconds_created")[-1].split()[-1] for metrics in (one, two)
    ]
    assert f'created{{model="kimi-k2.5"}} {began[0]}' in text
    assert merged([one.text()]) == one.text()
