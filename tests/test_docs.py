"""The pages for contributors agree with the code: layers, links to functions, decisions, recipes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# A link whose text is a name in code: [`name`](path.py).
_LINKED_NAME = re.compile(r"\[`([\w.]+)(?:\(\))?`\]\(([^)#]+\.py)\)")


def test_layers_in_the_architecture_page_are_those_of_the_import_contracts() -> None:
    command = [sys.executable, "tools/architecture_page.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0, "run `python tools/architecture_page.py`"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_names_that_a_page_links_are_defined_in_the_linked_file(page: Path) -> None:
    missing = [
        f"{name} in {target}"
        for name, target in _LINKED_NAME.findall(page.read_text(encoding="utf-8"))
        if not _defines((page.parent / target).read_text(encoding="utf-8"), name)
    ]
    assert missing == []


def _defines(source: str, name: str) -> bool:
    """Return whether the source defines the function, class, method or constant; `Class.method` names a method."""
    patterns = (rf"^\s*(?:async def|def|class) {part}\b|^{part}\b.* = " for part in name.split("."))
    return all(re.search(pattern, source, re.MULTILINE) for pattern in patterns)


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (DOCS / "decisions" / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))


def test_files_that_the_contributing_page_names_exist() -> None:
    named = re.findall(
        r"`((?:proxy|index|optimizer|tests|docs)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
