"""The engine's worker process: llama.cpp's server around one model file, run with ``python -m``.

It reads its settings as one line of JSON from standard input (so that the API key stands in no
argument list), prints one line of JSON when it serves or cannot, and leaves when standard input
ends: it never outlives the process that started it. It knows nothing of requests, tenants or
prompts, and writes nothing anywhere else.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, Final

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


def _say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until standard input ends."""
    settings = json.loads(sys.stdin.readline())
    _bind_to_parent(settings["parent"])
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        import xllamacpp as xlc  # noqa: PLC0415 - as above

        server = xlc.Server(_params(settings))
    except ImportError as error:
        _say(error="libgomp" if "libgomp" in str(error) else "import")
    except (RuntimeError, ValueError, OSError):
        _say(error="load")
    else:
        _say(address=server.listening_address)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
    # The engine's threads may still be generating: leave at once.
    os._exit(0)


if __name__ == "__main__":
    main()
