"""A store in trouble: what the operator is told at start, and what callers get meanwhile."""

import asyncio
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.money import Usage
from moongate.core.rows import HoldRow
from moongate.store.sqlite import SqliteStore
from moongate.store.statements import read_migrations
from store_kit import Disk, a_hold, an_end, balance, furnish, opened


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store's file with a few rows in it, closed."""
    file = tmp_path / "moongate.db"
    async with opened(SqliteStore(file)) as store:
        await furnish(store, 1_000_000)
        assert all(await asyncio.gather(*(store.hold(a_hold(f"h{n}", 10)) for n in range(300))))
    return file


async def _refused(file: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        await SqliteStore(file).open()
    assert error.value.__suppress_context__ or error.value.__context__ is None
    text = str(error.value)
    assert "\n" not in text
    return text


async def test_a_second_server_is_refused_with_the_firsts_pid(path: Path) -> None:
    async with opened(SqliteStore(path)):
        text = await _refused(path)
        assert f"process {os.getpid()}" in text
        assert str(path) in text
    async with opened(SqliteStore(path)) as store:
        assert await store.audit() == []


async def test_the_lock_goes_with_its_process(path: Path) -> None:
    """flock, not the file's presence: what a crash leaves behind refuses nobody."""
    lock = path.with_name(path.name + ".lock")
    lock.write_text("4194304\n")
    async with opened(SqliteStore(path)) as store:
        assert await store.audit() == []
        assert lock.read_text() == f"{os.getpid()}\n"
    assert lock.read_text() == ""


async def test_a_failed_start_gives_the_lock_back(tmp_path: Path) -> None:
    file = tmp_path / "moongate.db"
    file.write_bytes(b"not a database" * 1000)
    await _refused(file)
    file.unlink()
    async with opened(SqliteStore(file)) as store:
        assert await store.audit() == []


@pytest.mark.parametrize("where", ["header", "middle", "truncated"])
async def test_a_damaged_file(path: Path, where: str) -> None:
    data = bytearray(path.read_bytes())
    if where == "header":
        data[:100] = os.urandom(100)
    elif where == "middle":
        half = len(data) // 2 // 4096 * 4096
        data[half : half + 8192] = os.urandom(8192)
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)
    text = await _refused(path)
    assert "damaged" in text
    assert "backup" in text
    assert path.read_bytes() == data


async def test_a_newer_version(path: Path) -> None:
    newest = max(read_migrations("sqlite"))
    db = apsw.Connection(str(path))
    db.pragma("user_version", newest + 1)
    db.close()
    before = path.read_bytes()
    text = await _refused(path)
    assert f"version {newest + 1}" in text
    assert f"up to {newest}" in text
    assert path.read_bytes() == before


async def test_a_database_of_another_program(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    db = apsw.Connection(str(file))
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = file.read_bytes()
    assert "another program" in await _refused(file)
    assert file.read_bytes() == before


async def test_no_such_folder(tmp_path: Path) -> None:
    assert "cannot be written" in await _refused(tmp_path / "nowhere" / "moongate.db")


async def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    (tmp_path / "moongate.db").mkdir()
    assert "cannot be written" in await _refused(tmp_path / "moongate.db")


@pytest.mark.parametrize("what", ["folder", "file"])
def test_no_right_to_write(path: Path, what: str) -> None:
    """Root may write anywhere, so a child without rights looks."""
    probe = (
        "import asyncio, os, pathlib, sys\n"
        "from moongate.core.errors import ConfigurationError\n"
        "from moongate.store.sqlite import SqliteStore\n"
        "import concurrent.futures.thread\n"
        "store = SqliteStore(sys.argv[1])\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: asyncio.run(store.open())\n"
        "except ConfigurationError as error: print(error)\n"
    )
    import subprocess

    folder = path.parent
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    if what == "folder":
        folder.chmod(0o555)
    else:
        folder.chmod(0o777)
        path.chmod(0o444)
        path.with_name(path.name + ".lock").chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-c", probe, str(path)], capture_output=True, text=True, timeout=30
    )
    folder.chmod(0o755)
    assert re.search(r"cannot be written \(Permission denied\)", done.stdout), done.stderr
    assert done.stderr == ""


async def test_a_new_store_is_for_its_owner_only(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def disk() -> Iterator[Disk]:
    it = Disk("moongate-test-disk")
    yield it
    it.unregister()


TROUBLES: dict[str, tuple[str, Callable[[], Exception]]] = {
    "full": ("writes", lambda: apsw.FullError("no space")),
    "read_only": ("writes", lambda: apsw.ReadOnlyError("read-only")),
    "io": ("syncs", lambda: apsw.IOError("fsync failed")),
}


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("kind", TROUBLES)
async def test_trouble_with_the_disk_at_the_first_start(
    kind: str, after: int, disk: Disk, tmp_path: Path
) -> None:
    where, trouble = TROUBLES[kind]
    setattr(disk, where, trouble)
    disk.after = after if where == "writes" else 0
    file = tmp_path / "a.db"
    with pytest.raises(ConfigurationError, match=r"cannot be used.*disk is full"):
        await SqliteStore(file, vfs=disk.name).open()
    disk.mend()
    async with opened(SqliteStore(file)) as store:  # the lock is free, nothing is half made
        await furnish(store, 5)
        assert await store.audit() == []


@pytest.mark.parametrize("kind", TROUBLES)
async def test_trouble_with_the_disk_books_nothing_and_passes(
    kind: str, disk: Disk, tmp_path: Path
) -> None:
    where, trouble = TROUBLES[kind]
    async with opened(SqliteStore(tmp_path / "a.db", vfs=disk.name)) as store:
        await furnish(store, 1_000_000)
        held = [a_hold(f"h{n}", 50_000) for n in range(4)]
        assert all(await asyncio.gather(*map(store.hold, held)))
        setattr(disk, where, trouble)
        moves = [store.hold(a_hold(f"x{n}", 50_000)) for n in range(8)]
        moves += [store.settle(an_end(hold, Usage(output=3))) for hold in held]
        answers = await asyncio.gather(*moves, store.ping(), return_exceptions=True)
        assert {type(answer) for answer in answers} == {LedgerUnavailable}
        assert {answer.kind for answer in answers} == {kind}
        assert disk.failed > 0
        # Looks go on: they need no write.
        assert await balance(store) == (1_000_000, 200_000)
        disk.mend()
        await store.ping()
        assert all(await asyncio.gather(*(store.settle(an_end(h, Usage(output=3))) for h in held)))
        assert await balance(store) == (1_000_000 - 4 * 6_000, 0)
        assert await store.audit() == []


async def test_trouble_at_any_write_of_a_commit(disk: Disk, tmp_path: Path) -> None:
    """However far a commit came, either it is told as done or nothing of it is there."""
    rounds = 0
    async with opened(SqliteStore(tmp_path / "a.db", vfs=disk.name)) as store:
        await furnish(store, 10**9)
        for after in range(40):
            rounds += 1
            hold = a_hold(f"h{after}", 50_000)
            disk.writes, disk.after = TROUBLES["full"][1], after
            told = []
            for move in (store.hold(hold), store.settle(an_end(hold, Usage(output=1)))):
                try:
                    told.append(bool(await move))
                except LedgerUnavailable:
                    told.append(None)
            disk.mend()
            open_ids = {row.id for row in await store.open_holds()}
            row = await store.usage_row(hold.id)
            assert (row is not None) == (told[1] is True)
            assert (hold.id in open_ids) == (told[0] is True and told[1] is not True)
            assert await store.audit() == []
        assert disk.failed >= 10
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        assert await store.audit() == []
    print(f"{rounds} cuts, {disk.failed} failed writes, 0 findings")


async def test_a_real_limit_of_pages_is_a_full_disk(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        await furnish(store, 10**9)
        await store._move(lambda db: db.pragma("max_page_count", 1) and None)
        answers = []
        for start in range(0, 2_000, 20):
            rows = [a_hold(f"h{n}", 1) for n in range(start, start + 20)]
            answers += await asyncio.gather(*map(store.hold, rows), return_exceptions=True)
        kinds = {answer.kind for answer in answers if isinstance(answer, LedgerUnavailable)}
        assert kinds == {"full"}
        made = sum(isinstance(answer, HoldRow) for answer in answers)
        assert (await balance(store))[1] == made == len(await store.open_holds())
        await store._move(lambda db: db.pragma("max_page_count", 1 << 30) and None)
        assert await store.hold(a_hold("after", 1))
        assert await store.audit() == []


async def test_a_closed_store_is_unavailable(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    for look in (store.ping(), store.account("acme"), store.hold(a_hold("h", 1))):
        with pytest.raises(LedgerUnavailable, match="closed"):
            await look


async def test_closing_what_was_never_opened_is_harmless(tmp_path: Path) -> None:
    await SqliteStore(tmp_path / "a.db").close()
    assert list(tmp_path.iterdir()) == []


async def test_what_is_queued_is_done_before_the_end(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    moves = [asyncio.create_task(store.hold(a_hold(f"q{n}", 1))) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert all([await move for move in moves])
    async with opened(SqliteStore(path)) as again:
        assert len(await again.open_holds()) == 350


async def test_one_commit_serves_everybody_who_waited(disk: Disk, tmp_path: Path) -> None:
    syncs = 0

    def count() -> Exception | None:
        nonlocal syncs
        syncs += 1
        return None

    async with opened(SqliteStore(tmp_path / "a.db", vfs=disk.name)) as store:
        await furnish(store, 10**9)
        disk.meet = lambda trouble: trouble() if trouble is not None else None
        disk.syncs = count
        assert all(await asyncio.gather(*(store.hold(a_hold(f"h{n}", 1)) for n in range(400))))
    print(f"400 holds, {syncs} syncs")
    assert 1 <= syncs <= 20
