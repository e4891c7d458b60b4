"""Serves the base model of these tests on a real vLLM, on CPU, for a manual run of the optimizer.

python -m tests.vllm            prints the base URL when the server is ready; Ctrl-C stops it
"""

import signal
import tempfile
import threading
from pathlib import Path

from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder
from tests.vllm.server import vllm_server


def main() -> None:
    """Install what is missing, start the server, and wait for a signal."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    vllm = environment(print)
    folder = model_folder(BASE, vllm, print)
    with tempfile.TemporaryDirectory() as logs:
        with vllm_server(vllm, BASE, folder, Path(logs) / "vllm.log", print) as url:
            print(f"{BASE.name} at {url}/v1", flush=True)
            stop.wait()


if __name__ == "__main__":
    main()
