"""The process that runs the embedded model: llama.cpp's OpenAI server, in-process, until its parent is gone.

Started by proxy/backends/embedded/child_process.py as a file of its own. It imports nothing of drpo, so that it is up
soon, and it talks over
its standard streams: one JSON line of settings in (in a pipe, since arguments and variables can be read by others), one
JSON line of result out, llama.cpp's warnings on stderr. Standard input stays open as long as the parent lives; its end
is the end of this process, however the parent ended.
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
_WARNINGS: Final = 2  # llama.cpp's verbosity: nothing of a request is written
_MOST_THREADS: Final = 8  # more make so small a model slower
_HTTP_THREADS: Final = 300  # each open connection holds one; with too few, health checks wait for answers
_PROMPT_CACHE_MIB: Final = 512  # unbounded enough by default to hold 8 GiB


def main() -> NoReturn:
    """Start the server, say where it is or why it is not, and stay until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with_parent()
    settings = json.loads(_read_line())
    report = os.dup(1)
    os.dup2(2, 1)  # whatever llama.cpp prints is no result
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    try:
        server = _start(settings)
    except Exception as error:  # noqa: BLE001  the root of this process: the parent gets the reason, whatever it is
        _say(report, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _say(report, {"address": server.listening_address})
    threading.Event().wait()
    os._exit(0)


def _die_with_parent() -> None:
    """On Linux, be killed when the parent is: loading a model holds the interpreter, so no thread could see it go."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _read_line() -> bytes:
    """One line of standard input, and no byte more. Ends the process if the parent is gone before it is complete."""
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
    """The running server, once its model has answered."""
    # OpenMP's threads spin while they wait for each other: with anything else on the cores, decoding is 6 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp  # here, not above: from now on the parent's end is noticed

    server = xllamacpp.Server(_parameters(xllamacpp.CommonParams(), settings))
    answer = server.handle_completions({"prompt": "Hello", "max_tokens": 1})
    if "choices" not in answer:
        raise RuntimeError(f"the model does not answer: {answer}")
    return server


def _parameters(parameters: Any, settings: Mapping[str, Any]) -> Any:
    """Fill in llama.cpp's parameters. settings: weights, name, api_key, context (tokens per slot), slots."""
    parameters.model.path = settings["weights"]
    parameters.model_alias = {settings["name"]}
    parameters.api_keys = [settings["api_key"]]
    parameters.port = 0  # a free one
    parameters.n_ctx = settings["context"] * settings["slots"]
    parameters.n_parallel = settings["slots"]
    parameters.cpuparams.n_threads = min(_MOST_THREADS, _usable_cores())
    parameters.n_threads_http = _HTTP_THREADS
    parameters.cache_ram_mib = _PROMPT_CACHE_MIB
    parameters.swa_full = True  # a prefix can be reused from any length, for 150 MB
    parameters.sse_ping_interval = -1  # a stream holds events and nothing else
    parameters.warmup = False  # the first answer does that
    parameters.no_extra_bufts = True  # weights are used as they are in the file: up sooner, no second copy
    parameters.fit_params = False
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.verbosity = _WARNINGS
    _set_sampling(parameters.sampling)
    return parameters


def _set_sampling(sampling: Any) -> None:
    """What a request that sets nothing gets: the generation defaults that were published with gemma 3."""
    sampling.temp = 1.0
    sampling.top_k = 64
    sampling.top_p = 0.95
    sampling.min_p = 0.0


def _usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _say(report: int, result: Mapping[str, object]) -> None:
    os.write(report, json.dumps(result).encode() + b"\n")


if __name__ == "__main__":
    main()
