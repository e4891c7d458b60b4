"""What must not be in the repository: places of one machine, addresses of package indexes, and wrong pins."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.flaky import listed

ROOT = Path(__file__).parent.parent
MADE_BY_TOOLS = re.compile(r"(^|/)(\.(?!ci/|gitignore$)|__pycache__/|build/|dist/)")
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt")) + sorted((ROOT / "tests" / "vllm").glob("*.txt"))

# The slashes and dots are written as [/] and [.], so that this file is not among what it finds.
LOCAL_PLACE = re.compile(r"(?<![\w.~}])[/](?:root|work|Users|home|opt|mnt|workspace)[/][A-Za-z0-9._-]+")
INDEX_ADDRESS = re.compile(
    r"pypi[.](?:org|python[.]org)|pythonhosted[.]org|registry[.]npmjs|download[.]pytorch[.]org"
    r"|(?:index-url|find-links)[= ]+(?:https?:|file:|[/])"
)


def tracked_files() -> list[Path]:
    """Every file of the repository; every file of the folder where git is not at hand."""
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
    """`file:line: text` of each place where the pattern is, in files that are text."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in tracked_files()
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1)
        for match in pattern.finditer(line)
    ]


def test_no_file_names_a_place_on_one_machine() -> None:
    assert not found(LOCAL_PLACE)


def test_no_file_names_a_package_index() -> None:
    assert not found(INDEX_ADDRESS)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (LOCAL_PLACE, "cd @root@project"),
        (LOCAL_PLACE, "model = '@home@someone'"),
        (LOCAL_PLACE, "file:@@@opt@wheels"),
        (INDEX_ADDRESS, "https:@@pypi!org@simple"),
        (INDEX_ADDRESS, "--find-links @wheels"),
        (INDEX_ADDRESS, "--extra-index-url=@@simple"),
    ],
)
def test_patterns_match_their_examples(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text.replace("@", "/").replace("!", "."))


@pytest.mark.parametrize("text", ["make PYTHON=/path/to/python", "~/.cache/drpo", "POST /v1/models", "a/opt/b"])
def test_an_example_is_no_place(text: str) -> None:
    assert not LOCAL_PLACE.search(text)


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_pin_has_a_hash(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    pins = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    assert not [line.split()[0] for line in pins if "--hash=sha256:" not in line and "sys_platform ==" not in line]


@pytest.mark.parametrize(("name", "extras"), [("run", ["embedded"]), ("dev", ["embedded", "dev"])])
def test_pins_cover_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    """A dependency added to pyproject.toml without `make requirements` would be missing in a new environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + [one for extra in extras for one in project["optional-dependencies"][extra]]
    pinned = re.findall(
        r"^([a-z0-9-]+)==", (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert not {re.split(r"[^a-zA-Z0-9-]", requirement)[0] for requirement in asked} - set(pinned)


def test_one_environment_can_grow_from_run_to_dev() -> None:
    def pins(name: str) -> set[str]:
        return set(
            re.findall(r"^\S+==\S+", (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)
        )

    assert pins("run") <= pins("dev")


def test_timing_list_names_fifty_existing_tests() -> None:
    tests = [test.split("::") for test in listed()]
    assert len({tuple(test) for test in tests}) == len(tests) == 50
    assert not [test for test in tests if f"def {test[1]}(" not in (ROOT / test[0]).read_text(encoding="utf-8")]
