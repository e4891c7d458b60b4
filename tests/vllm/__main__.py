"""Serves the base model of these tests on a real vLLM, on CPU, until stopped: for a run of the optimizer by hand.

python -m tests.vllm            prints the base URL when it is ready; Ctrl-C stops it
"""

import signal
import tempfile
import threading
from pathlib import Path

from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder
from tests.vllm.server import vllm_server


def main() -> None:
    """Set up what is missing, start, and wait."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    place = environment(print)
    folder = model_folder(BASE, place, print)
    with tempfile.TemporaryDirectory() as logs:
        with vllm_server(place, BASE, folder, Path(logs) / "vllm.log", print) as url:
            print(f"{BASE.name} at {url}/v1", flush=True)
            stop.wait()


if __name__ == "__main__":
    main()
