"""The home folder: its modes, its pepper, and what an operator is told when the disk says no."""

import errno
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from moongate.core.errors import ConfigurationError
from moongate.home import Home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_for_its_user_alone(tmp_path):
    home = Home(tmp_path / "deep" / "home").open()
    for folder in (home.path, home.models, home.path / "secrets"):
        assert mode(folder) == 0o700
    assert sorted(p.name for p in home.path.iterdir()) == ["models", "secrets"]
    assert home.open() is home


def test_which_folder(tmp_path):
    env = {"MOONGATE_HOME": str(tmp_path / "e")}
    assert Home.chosen(tmp_path / "x", env).path == tmp_path / "x"
    assert Home.chosen(None, env).path == tmp_path / "e"
    assert Home.chosen(None, {}).path == Path.home() / ".moongate"


def test_the_pepper_is_made_once(tmp_path):
    home = Home(tmp_path).open()
    pepper = home.pepper(home.store)
    assert len(pepper) == 32
    assert Home(tmp_path).pepper(home.store) == pepper
    assert mode(tmp_path / "secrets" / "pepper") == 0o600
    assert [p.name for p in (tmp_path / "secrets").iterdir()] == ["pepper"]


def read_pepper(path: str) -> bytes:
    return Home(Path(path)).pepper(Path(path) / "moongate.db")


def test_two_first_starts_agree_on_the_pepper(tmp_path):
    Home(tmp_path).open()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(read_pepper, [str(tmp_path)] * 8))) == 1


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_pepper_is_told(tmp_path, content):
    home = Home(tmp_path).open()
    (tmp_path / "secrets" / "pepper").write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"it has {len(content)} bytes instead of 32"):
        home.pepper(home.store)


def test_a_pepper_lost_beside_a_store_is_not_made_anew(tmp_path):
    home = Home(tmp_path).open()
    home.store.write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="is missing, but the store is there"):
        home.pepper(home.store)
    assert not (tmp_path / "secrets" / "pepper").exists()


def test_a_pepper_lost_beside_a_store_elsewhere_is_not_made_anew(tmp_path):
    home = Home(tmp_path / "h").open()
    (tmp_path / "rows.db").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="is missing, but the store is there"):
        home.pepper(tmp_path / "rows.db")
    assert len(home.pepper(tmp_path / "other.db")) == 32


def test_a_store_emptied_beside_its_pepper_is_no_first_start(tmp_path):
    home = Home(tmp_path).open()
    home.pepper(home.store)
    home.store.touch()
    with pytest.raises(ConfigurationError, match="is empty although it was in use"):
        home.pepper(home.store)
    home.store.unlink()
    home.pepper(home.store)


def test_a_home_that_leads_nowhere_has_a_remedy(tmp_path):
    (tmp_path / "h").symlink_to(tmp_path / "gone" / "far")
    with pytest.raises(ConfigurationError, match="--home or MOONGATE_HOME"):
        Home(tmp_path / "h").open()


def test_a_path_too_long_for_the_socket(tmp_path):
    with pytest.raises(ConfigurationError, match=r"bytes too long for the socket admin\.sock"):
        Home(tmp_path / ("x" * 120)).open()
    assert not any(tmp_path.iterdir())


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigurationError, match="it is a file, not a folder"):
        Home(tmp_path / "home").open()
    with pytest.raises(ConfigurationError, match="part of the path is a file"):
        Home(tmp_path / "home" / "inner").open()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full. Make room"),
        (errno.EROFS, "the disk is read-only. Choose another"),
        (errno.EACCES, "it is not ours to write. Choose another"),
        (errno.EIO, "input/output error."),
    ],
)
def test_what_the_disk_refuses_is_a_sentence(tmp_path, monkeypatch, number, words):
    home = Home(tmp_path / "home").open()

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(ConfigurationError, match=words) as caught:
        home.open()
    assert str(home.path) in str(caught.value)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigurationError, match=words):
        home.pepper(home.store)
