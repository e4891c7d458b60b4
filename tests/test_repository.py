"""Tests that the repository has no paths of one machine, addresses of package indexes or incomplete pins."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.flaky import listed

ROOT = Path(__file__).parent.parent
MADE_BY_TOOLS = re.compile(r"(^|/)(\.(?!ci/|gitignore$)|__pycache__/|build/|dist/)")
_PIN = re.compile(r"^[a-z0-9._-]+(\[[a-z,]+\])?==", re.MULTILINE)

# Slashes and dots are written as [/] and [.], so that the patterns do not match this file.
LOCAL_PATH = re.compile(r"(?<![\w.~}])[/](?:root|work|Users|home|opt|mnt|workspace)[/][A-Za-z0-9._-]+")
INDEX_ADDRESS = re.compile(
    r"pypi[.](?:org|python[.]org)|pythonhosted[.]org|registry[.]npmjs|download[.]pytorch[.]org"
    r"|(?:index-url|find-links)[= ]+(?:https?:|file:|[/])"
)


def tracked_files() -> list[Path]:
    """Return every file of the repository, or every file of the folder if git is not available."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not MADE_BY_TOOLS.search(path.relative_to(ROOT).as_posix())]
    return [path for path in paths if path.is_file()]


def found(pattern: re.Pattern[str]) -> list[str]:
    """Return each match of the pattern in text files, as `file:line: text`."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in tracked_files()
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1)
        for match in pattern.finditer(line)
    ]


def test_no_file_contains_a_path_of_one_machine() -> None:
    assert not found(LOCAL_PATH)


def test_no_file_contains_the_address_of_a_package_index() -> None:
    assert not found(INDEX_ADDRESS)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (LOCAL_PATH, "cd @root@project"),
        (LOCAL_PATH, "model = '@home@someone'"),
        (LOCAL_PATH, "file:@@@opt@wheels"),
        (INDEX_ADDRESS, "https:@@pypi!org@simple"),
        (INDEX_ADDRESS, "--find-links @wheels"),
        (INDEX_ADDRESS, "--extra-index-url=@@simple"),
    ],
)
def test_pattern_matches(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text.replace("@", "/").replace("!", "."))


@pytest.mark.parametrize("text", ["make PYTHON=/path/to/python", "~/.cache/drpo", "POST /v1/models", "a/opt/b"])
def test_pattern_does_not_match_examples(text: str) -> None:
    assert not LOCAL_PATH.search(text)


def test_every_pin_has_a_hash() -> None:
    files = [
        path for path in tracked_files() if path.suffix == ".txt" and _PIN.search(path.read_text(encoding="utf-8"))
    ]
    assert len(files) > 15
    assert [fault for path in files for fault in _pins_without_hash(path)] == []


def _pins_without_hash(path: Path) -> list[str]:
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    pins = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    return [line.split()[0] for line in pins if "--hash=sha256:" not in line and "sys_platform ==" not in line]


@pytest.mark.parametrize(("name", "extras"), [("run", ["embedded"]), ("dev", ["embedded", "dev"])])
def test_pins_cover_the_dependencies_of_the_project(name: str, extras: list[str]) -> None:
    """A dependency that is added without `make requirements` would be missing in a new environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = project["dependencies"] + [one for extra in extras for one in project["optional-dependencies"][extra]]
    pinned = re.findall(
        r"^([a-z0-9-]+)==", (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert not {re.split(r"[^a-zA-Z0-9-]", requirement)[0] for requirement in required} - set(pinned)


def test_pins_of_run_are_among_those_of_dev() -> None:
    def pins(name: str) -> set[str]:
        return set(
            re.findall(r"^\S+==\S+", (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)
        )

    assert pins("run") <= pins("dev")


def test_files_whose_tests_come_first_exist() -> None:
    assert [name for name in LONG if not (ROOT / name).is_file()] == []


def test_list_of_time_dependent_tests_names_fifty_existing_tests() -> None:
    tests = [test.split("::") for test in listed()]
    assert len({tuple(test) for test in tests}) == len(tests) == 50
    wanted = [(file, f"{name} = " if name.startswith("Test") else f"def {name}(") for file, name, *_ in tests]
    assert not [one for one in wanted if one[1] not in (ROOT / one[0]).read_text(encoding="utf-8")]
