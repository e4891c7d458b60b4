"""Tests of the pages: docs/flags.md lists the flags of the command, links lead to files, and commands succeed.

`python -m tests.test_readme` writes the list of flags. Commands run with a real proxy and the real embedded model
(tests/pages.py).
"""

import re
from pathlib import Path

import pytest

from optimizer.core.config import read_config
from proxy.core.settings import flag, setting_fields
from tests.claims.pages import sections
from tests.pages import MARKS, blocks, follow

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FLAGS = ROOT / "docs" / "flags.md"
PAGES = (*sorted((ROOT / "examples").glob("*/README.md")), ROOT / "docs" / "deploying.md", ROOT / "docs" / "faq.md")
TOP = ("deploy", "docs", "examples", "index", "optimizer", "proxy", "tests")
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
BEGIN, END = "<!-- flags: begin -->\n", "<!-- flags: end -->"


def table() -> str:
    rows = ["| flag | default | what it does |", "| --- | --- | --- |"]
    for setting in setting_fields().values():
        default = setting.default
        shown = ", ".join(default) if isinstance(default, tuple) else default
        shown = ("on" if default else "off") if isinstance(default, bool) else shown
        metavar = "" if isinstance(default, bool) else f" {setting.metadata['metavar']}"
        what = setting.metadata["help"].replace("|", r"\|")
        opposite = f", `{flag('no_' + setting.name)}`" if default is True else ""
        name = f"`{flag(setting.name)}{metavar}`".replace("|c", r"\|c") + opposite
        rows.append(f"| {name} | {shown} | {what} |")
    return "\n".join(rows) + "\n"


def rewritten(text: str) -> str:
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def test_page_lists_the_flags_of_the_command() -> None:
    text = FLAGS.read_text(encoding="utf-8")
    assert text == rewritten(text), "run `python -m tests.test_readme`"


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_block_of_a_page_has_a_mark(page: Path) -> None:
    unmarked = [block.line for block in blocks(page.read_text(encoding="utf-8")) if block.mark not in MARKS]
    assert not unmarked, f"blocks without a mark of {MARKS}"


def test_info_string_of_a_block_is_parsed() -> None:
    run, other = blocks("text\n```sh run in langchain\necho 1\n```\n\n```python\nprint()\n```\n```toml\na = 1\n```\n")
    assert (run.language, run.mark, run.environment, run.text, run.line) == ("sh", "run", "langchain", "echo 1\n", 2)
    assert (other.language, other.mark) == ("python", "")


def _followed() -> list[Path]:
    return [page for page in PAGES if any(block.mark == "run" for block in blocks(page.read_text("utf-8")))]


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.parametrize("page", _followed(), ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_commands_of_a_page_succeed(page: Path) -> None:
    follow(page)


@pytest.mark.slow
def test_commands_of_the_readme_succeed() -> None:
    follow(README)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("learn-a-bundle/*.toml")), ids=lambda file: file.name)
def test_runs_of_the_examples_have_allowed_settings(file: Path) -> None:
    assert read_config(file).models["task"].model


def test_gpu_run_without_a_judge_has_allowed_settings_if_it_is_changed_as_the_page_says(tmp_path: Path) -> None:
    folder = ROOT / "examples" / "learn-a-bundle"
    item = (folder / "gpu.md").read_text(encoding="utf-8").partition("**A base model without a judge**")[2]
    removed, changed = " ".join(item.split()).split("change the rewards")
    text = (folder / "gpu.toml").read_text(encoding="utf-8")
    for name in re.findall(r"`(.+?)`", removed):
        end = r"(?:(?!\[).*\n)*" if name.startswith("[") else ""  # a table ends before the next one
        text, count = re.subn(rf"^{re.escape(name)} .*\n{end}", "", text, flags=re.MULTILINE)
        assert count == 1
    weights = re.findall(r"`(weights = .+?)`", changed)[0]
    (file := tmp_path / "run.toml").write_text(re.sub("weights = .*", weights, text), encoding="utf-8")
    config = read_config(file)
    assert (list(config.models), dict(config.reward.weights)) == (["task"], {"rules": 1.0})


def _pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(page for top in TOP for page in (ROOT / top).rglob("*.md"))]


def _links(page: Path) -> list[tuple[Path, str]]:
    """Return the targets of the links of a page: a file and an anchor, which may be empty."""
    targets = re.findall(r"\]\(([^)\s]+)", _FENCED.sub("", page.read_text(encoding="utf-8")))
    parts = [target.partition("#") for target in targets if "://" not in target]
    return [((page.parent / path) if path else page, anchor) for path, _, anchor in parts]


def _anchors(page: Path) -> set[str]:
    return {section.anchor for section in sections(page)}


def test_every_link_of_a_page_leads_to_a_file() -> None:
    broken = [f"{page.relative_to(ROOT)}: {file}" for page in _pages() for file, _ in _links(page) if not file.exists()]
    assert broken == []


def test_every_anchor_of_a_link_is_a_heading_of_the_page() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {file.name}#{anchor}"
        for page in _pages()
        for file, anchor in _links(page)
        if anchor and file.suffix == ".md" and anchor not in _anchors(file)
    ]
    assert broken == []


def test_readme_is_short() -> None:
    text = _FENCED.sub("", README.read_text(encoding="utf-8"))
    paragraphs = [part.splitlines() for part in re.split(r"\n(?=\n|- )", text) if not part.strip().startswith("|")]
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200
    assert [lines for lines in paragraphs if len([line for line in lines if line]) > 5] == []


def test_anchors_are_made_from_the_words_of_headings() -> None:
    assert _anchors(ROOT / "docs" / "run-toml.md") >= {"the-keys-of-runtoml", "searchwriter-exampleswriter", "bundle"}


if __name__ == "__main__":
    FLAGS.write_text(rewritten(FLAGS.read_text(encoding="utf-8")), encoding="utf-8")
