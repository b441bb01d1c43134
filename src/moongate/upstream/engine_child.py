"""The engine's worker process: llama.cpp's server around one model file, run with ``python -m``.

It reads its settings as one line of JSON from standard input (so that the API key stands in no
argument list), prints one line of JSON when it serves or cannot, and leaves when standard input
ends: it never outlives the process that started it. It knows nothing of requests, tenants or
prompts, and writes nothing anywhere else.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, Final, TextIO

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
ALIAS: Final = "moongate-embedded"
"""The model name that the child's own OpenAI endpoint lists."""


def _bind_to_parent(parent: int) -> None:
    """Die with ``parent`` and leave no core file, which would hold prompts (Linux: prctl(2))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_DUMPABLE, 0)
    if os.getppid() != parent:
        os._exit(0)


def _params(settings: dict[str, Any]) -> Any:
    """llama.cpp's parameters; every field that touches sharing or output is set on purpose."""
    import xllamacpp as xlc  # noqa: PLC0415 - OMP_WAIT_POLICY must stand before libgomp loads

    params = xlc.CommonParams()
    params.model.path = settings["model"]
    if settings["projector"]:
        params.mmproj.path = settings["projector"]
    params.model_alias = {ALIAS}
    params.n_ctx = settings["n_ctx"]
    params.n_parallel = settings["slots"]
    params.kv_unified = True
    params.fit_params = False
    # A decode for nothing at the start would take longer than loading the model.
    params.warmup = False
    # A caller who leaves during the prompt is noticed between two batches.
    params.n_batch = params.n_ubatch = 512
    # Evicted prefixes would be shared by all slots, hence by organisations: no such cache.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.slot_prompt_similarity = 0.0
    # One generating thread and sleeping barriers: spinning ones collapse beside a busy neighbour.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]
    params.cors_origins = "null"
    params.ui = False
    params.verbosity = -1
    params.endpoint_slots = True
    # Erasing a slot is offered only where a folder for saved slots is named; in this one no file
    # can be made, so no prompt can be written to disk.
    params.slot_save_path = "/dev/null/"
    return params


def _serve(settings: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The server and its address, or ``None`` and a word for what is wrong."""
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        import xllamacpp as xlc  # noqa: PLC0415 - as above

        server = xlc.Server(_params(settings))
    except ImportError as error:
        return None, {"error": "libgomp" if "libgomp" in str(error) else "import"}
    except (RuntimeError, ValueError, OSError):
        return None, {"error": "load"}
    return server, {"address": server.listening_address}


def main() -> None:
    """Serve until standard input ends."""
    # Ctrl-C and a stop of the whole group reach us too; the parent drains first, then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    settings = json.loads(sys.stdin.readline())
    _bind_to_parent(settings["parent"])
    out = _own_stdout()
    server, hello = _serve(settings)
    out.write(json.dumps(hello) + "\n")
    out.close()
    if server is not None:
        sys.stdin.read()
    # The engine's threads may still be generating: leave at once.
    os._exit(0)


def _own_stdout() -> TextIO:
    """Standard output for our one line; whatever a library prints goes nowhere."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return own


if __name__ == "__main__":
    main()
