"""The child process of the embedded model. It runs llama.cpp's OpenAI server until the parent process ends.

child_process.py starts this file as a script. The script imports no module of drpo, so that it starts fast. It reads
one JSON line with its settings from standard input, because other users can read arguments and environment variables.
It writes one JSON line to standard output: the address of the server, or an error. llama.cpp writes its warnings to
standard error. The parent closes standard input to stop this process, and the kernel closes it if the parent dies. In
both cases, this process ends.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_VERBOSITY_WARNINGS: Final = 2  # at this level, llama.cpp logs nothing about requests
_MAX_THREADS: Final = 8  # for such a small model, more threads are slower
_HTTP_THREADS: Final = 300  # one per open connection; with too few, a health check waits until an answer ends
_PROMPT_CACHE_MIB: Final = 512  # by default, the cache may grow to 8 GiB


def main() -> NoReturn:
    """Start the server, report its address or an error, and serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _die_with_parent()
    settings = json.loads(_read_line())
    results = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints goes to standard error, not to the pipe for the result
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    try:
        server = _start(settings)
    except Exception as error:  # noqa: BLE001  the parent reports any error
        _write_result(results, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _write_result(results, {"address": server.listening_address})
    threading.Event().wait()
    os._exit(0)


def _die_with_parent() -> None:
    """On Linux, have the kernel kill this process when the parent dies.

    While llama.cpp loads the model, no Python thread runs, so no thread could notice that the parent has died.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _read_line() -> bytes:
    """Read exactly one line of standard input. If standard input ends before the line does, end this process."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    return line


def _exit_at_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _start(settings: Mapping[str, Any]) -> Any:
    """Start the server and wait until its model has answered a test request."""
    # By default, OpenMP's threads use a core while they wait. If another process needs the cores, decoding is then 6
    # times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp  # slow, so the thread that waits for the end of input must already run

    server = xllamacpp.Server(_parameters(xllamacpp.CommonParams(), settings))
    answer = server.handle_completions({"prompt": "Hello", "max_tokens": 1})
    if "choices" not in answer:
        raise RuntimeError(f"the model does not answer: {answer}")
    return server


def _parameters(parameters: Any, settings: Mapping[str, Any]) -> Any:
    """Set llama.cpp's parameters, and return them.

    Args:
        parameters: The parameters to set.
        settings: The object that the parent sent. Its keys are `weights` (a path), `name`, `api_key`, `context` (tokens
            per slot), `slots` (requests at once) and `sampling` (default values by name; may be missing).
    """
    parameters.model.path = settings["weights"]
    parameters.model_alias = {settings["name"]}
    parameters.api_keys = [settings["api_key"]]
    parameters.port = 0  # any free port
    parameters.n_ctx = settings["context"] * settings["slots"]
    parameters.n_parallel = settings["slots"]
    parameters.cpuparams.n_threads = min(_MAX_THREADS, _usable_cores())
    parameters.n_threads_http = _HTTP_THREADS
    parameters.cache_ram_mib = _PROMPT_CACHE_MIB
    parameters.swa_full = True  # takes 150 MB, so that a cached prefix of any length can be reused
    parameters.sse_ping_interval = -1  # send no pings between the events of a stream
    parameters.warmup = False  # the test request of _start warms the model up
    parameters.no_extra_bufts = True  # weights that are not repacked load faster, and take memory only once
    parameters.fit_params = False
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.verbosity = _VERBOSITY_WARNINGS
    parameters.use_jinja = True  # chat requests are written with the chat template of the file
    for name, value in settings.get("sampling", {}).items():
        setattr(parameters.sampling, name, value)
    return parameters


def _usable_cores() -> int:
    """Return how many cores this process may run on."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return cores


def _write_result(results: int, result: Mapping[str, object]) -> None:
    os.write(results, json.dumps(result).encode() + b"\n")


if __name__ == "__main__":
    main()
