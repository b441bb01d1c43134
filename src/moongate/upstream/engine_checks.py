"""What the embedded engine needs of a machine, looked at without starting it.

Each check is a sentence for the operator with what to do; ``moongate doctor`` shows them, and a
start refuses with the first that fails.
"""

import ctypes
import platform
from pathlib import Path
from typing import Final

import msgspec

from moongate.upstream.engine_gguf import read_header
from moongate.upstream.engine_model import COMMAND, FILE_NAME, is_whole

_CPU_FLAGS: Final = frozenset({"avx", "avx2", "fma", "f16c", "bmi2"})
_CPU_INFO: Final = Path("/proc/cpuinfo")


class Check(msgspec.Struct, frozen=True):
    """One look: its name, whether all is well, and a sentence."""

    name: str
    ok: bool
    detail: str


def check(folder: Path, model: Path | None = None, projector: Path | None = None) -> list[Check]:
    """Look at processor, libgomp and model file; ``folder`` is where the stand-in's file lies.

    Reads the whole file to compare its hash (about 100 MB).
    """
    looks = [check_cpu(), check_libgomp()]
    if model is None:
        looks.append(_check_stand_in(folder / FILE_NAME))
    else:
        looks.append(check_file("model", model))
    if projector is not None:
        looks.append(check_file("projector", projector))
    return looks


def check_cpu(info: Path = _CPU_INFO) -> Check:
    """AVX2 and its company: the engine's binary is compiled for them (x86-64 only)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return Check("cpu", ok=True, detail=f"{platform.machine()} needs no special instructions")
    try:
        text = info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Check("cpu", ok=True, detail="this system does not tell its processor's features")
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    missing = sorted(_CPU_FLAGS - set(line.split()))
    if line and missing:
        return Check(
            "cpu",
            ok=False,
            detail=f"This processor lacks {', '.join(missing)}, which the embedded engine needs. "
            'Configure another upstream, for instance kind = "openai" with a base_url.',
        )
    return Check("cpu", ok=True, detail="AVX2 is there")


def check_libgomp(name: str = "libgomp.so.1") -> Check:
    """The OpenMP run time, which slim images leave out."""
    if platform.system() != "Linux":
        return Check("libgomp", ok=True, detail="not needed on this system")
    try:
        ctypes.CDLL(name)
    except OSError:
        return Check(
            "libgomp",
            ok=False,
            detail=f"{name} is missing, which the embedded engine links. "
            "On Debian or Ubuntu run: apt-get install libgomp1",
        )
    return Check("libgomp", ok=True, detail=f"{name} is there")


def check_file(name: str, path: Path) -> Check:
    """A GGUF file of the operator's own."""
    try:
        header = read_header(path)
    except FileNotFoundError:
        detail = f"{path} does not exist. Correct [embedded] {name}."
    except OSError as error:
        detail = f"{path} cannot be read ({type(error).__name__}). Check its permissions."
    except ValueError as error:
        detail = f"{path} is not a model file that can be used: {error}. Correct [embedded] {name}."
    else:
        return Check(name, ok=True, detail=f"{path} ({header.architecture})")
    return Check(name, ok=False, detail=detail)


def _check_stand_in(path: Path) -> Check:
    try:
        whole = is_whole(path)
    except FileNotFoundError:
        return Check(
            "model",
            ok=False,
            detail=f"{path} is not there yet; the first start fetches it ({COMMAND}).",
        )
    except OSError as error:
        return Check("model", ok=False, detail=f"{path} cannot be read ({type(error).__name__}).")
    if not whole:
        return Check(
            "model", ok=False, detail=f"{path} is damaged; the next start fetches it again."
        )
    return Check("model", ok=True, detail=f"{path} is whole")
