"""Fixtures of the client tests: one proxy on the real embedded model for all of them, and a way to run a client."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.backends.embedded.model_file import MODEL_NAME
from tests.clients.environments import clean_environment, node_packages, node_shortcoming
from tools.steps import Say, run_step

_SKIPPED: Final = "JavaScript clients: "
_TEST_WITHIN: Final = 600.0  # seconds for a test alone; its fixtures have their own timeouts
_PROGRAM_WITHIN: Final = 600.0  # seconds
PROGRAMS: Final = Path(__file__).parent / "programs"

Results = Callable[[Sequence[str]], dict[str, Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, because they all start other programs."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(_TEST_WITHIN, func_only=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a banner if the JavaScript clients could not run."""
    skipped = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    if reason := next((str(why[2]) for why in skipped if isinstance(why, tuple) and _SKIPPED in str(why[2])), ""):
        terminalreporter.write_sep("!", "NO JAVASCRIPT CLIENT WAS TESTED", red=True, bold=True)
        terminalreporter.write_line(f"{reason.partition(_SKIPPED)[2]}.", red=True)


@pytest.fixture(scope="session")
def base_url(embedded_url: str) -> str:
    """The base URL, with /v1, of a proxy with the embedded model and the default bundle."""
    return embedded_url


@pytest.fixture(scope="module")
def results(base_url: str, tmp_path_factory: pytest.TempPathFactory, say: Say) -> Results:
    """A function that runs `command BASE_URL MODEL`, and returns the last JSON object that it prints."""

    def run(command: Sequence[str]) -> dict[str, Any]:
        log = tmp_path_factory.mktemp("client") / "output.log"
        title = f"running {Path(command[-1]).name}"
        run_step(title, [*command, base_url, MODEL_NAME], log, say, _PROGRAM_WITHIN, clean_environment())
        found: dict[str, Any] = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        return found

    return run


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory, say: Say) -> Path:
    """A folder with our programs and the packages that they import. Node looks for packages beside a program."""
    if reason := node_shortcoming():
        pytest.skip(f"{_SKIPPED}{reason}")
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(node_packages(say))
    for program in PROGRAMS.glob("*.mjs"):
        (folder / program.name).write_bytes(program.read_bytes())
    return folder
