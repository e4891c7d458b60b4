"""Tests that figures of the pages come from measurements that have a command and a date.

- A figure of the README is in the section of docs to which its paragraph or its row links. All figures of one row of
  the README are in one row or paragraph of this section.
- A table of docs/benchmarks has a date and a command: before it in its section, in the paragraph after it, or above its
  section. If the program was not kept, the page says that no command repeats the measurement.
- Where a page links to a table of docs/benchmarks, the figures beside the link are in this table's section.
- An interval on another page has a date and a command in its section, or a link to a section that has them.
"""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.claims.figures import figures, missing
from tests.claims.pages import ROOT, Block, Section, linked, sections, without_code

README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
BENCHMARKS: Final = DOCS / "benchmarks"
PAGES: Final = sorted(page for page in DOCS.rglob("*.md") if page.parent != BENCHMARKS)
MEASURED: Final = sorted(BENCHMARKS.glob("*.md"))

_DATE: Final = re.compile(r"\b\d{1,2} [A-Z][a-z]+ 20\d\d\b|\b20\d\d-\d\d-\d\d\b")
_COMMAND: Final = re.compile(r"(?:python -m|make|pytest|drpo-(?:proxy|optimizer|index)) [\w.-]+")
_NONE: Final = "no command repeats"  # words by which a page says that the program of a measurement was not kept
_MODULE: Final = re.compile(r"python -m (tests\.[\w.]+)")


def unproved(section: Section) -> list[str]:
    """Return what a section lacks of a date and a command. Text above it on the page counts, too."""
    return _lacks(section.above + section.own)


def unproved_tables(section: Section) -> list[list[str]]:
    """Return what each table of a section lacks of a date and a command, before it or in the paragraph after it."""
    return [_lacks(text) for text in section.before_tables()]


def _lacks(text: str) -> list[str]:
    code = " ".join(re.findall(r"`[^`]+`|^```.*?^```", text, re.MULTILINE | re.DOTALL))
    return [
        what
        for what, found in (("date", _DATE.search(text)), ("command", _COMMAND.search(code) or _NONE in text))
        if not found
    ]


def wrong_figures(block: Block, folder: Path, *, is_proved: bool = False) -> list[str]:
    """Return the figures of a block that are in none of the sections to which it links.

    Args:
        block: The block. For a row, the links of the paragraph before the table count, too.
        folder: Only links to pages in this folder count.
        is_proved: Whether the section of the block has a date and a command. Then a row may have figures of its own,
            and only links in the row count.
    """
    links = block.links if is_proved else (*block.links, *block.links_before)
    targets = [linked(link) for link in links if folder in link.page.parents]
    return missing(figures(block.text), "\n".join(targets))


def split_row(block: Block) -> list[str]:
    """Return the figures of a row after its first cell, if no single line of the linked sections has all of them."""
    found = list(figures(block.text.strip("|").partition("|")[2]))
    lines = [line for link in block.links for line in _lines(linked(link))]
    return [] if any(not missing(found, line) for line in lines) else [one.text for one in found]


def _lines(text: str) -> list[str]:
    """Return the rows and the paragraphs of a text."""
    return re.split(r"\n(?=\|)|\n\s*\n", without_code(text))


def page(folder: Path, name: str, text: str) -> Path:
    """Write a page for a test, and return it."""
    (file := folder / name).parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("section", sections(README), ids=lambda one: one.anchor)
def test_figures_of_the_readme_are_in_the_sections_to_which_they_link(section: Section) -> None:
    wrong = [(block.text, found) for block in section.blocks() if (found := wrong_figures(block, DOCS))]
    assert wrong == []


def test_figures_of_a_row_of_the_readme_are_in_one_row_of_the_measurements() -> None:
    rows = [block for section in sections(README) for block in section.blocks() if block.is_row]
    measured = [block for block in rows if _is_about(block, is_proved=True)]
    assert len(measured) > 3
    assert [(block.text, found) for block in measured if (found := split_row(block))] == []


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: file.stem)
def test_tables_of_measurements_have_a_date_and_a_command(file: Path) -> None:
    tables = [(one.name, lacks) for one in sections(file) for lacks in unproved_tables(one)]
    assert tables
    assert [one for one in tables if one[1]] == []


@pytest.mark.parametrize("file", [README, *PAGES], ids=lambda file: file.stem)
def test_figures_beside_a_link_to_measurements_are_those_of_the_measurements(file: Path) -> None:
    wrong = [
        (block.text, found)
        for section in sections(file)
        for block in section.blocks()
        if _is_about(block, is_proved := not unproved(section))
        and (found := wrong_figures(block, DOCS, is_proved=is_proved))
    ]
    assert wrong == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_intervals_have_a_date_and_a_command(file: Path) -> None:
    unknown = [
        (section.name, block.text)
        for section in sections(file)
        for block in section.blocks()
        if any(one.has_interval for one in figures(block.text)) and unproved(section) and not _leads_to_proof(block)
    ]
    assert unknown == []


def _is_about(block: Block, is_proved: bool) -> bool:
    """Return whether a link to measurements says where the figures of a block come from."""
    links = block.links if is_proved else (*block.links, *block.links_before)
    return any(BENCHMARKS in link.page.parents for link in links)


def _leads_to_proof(block: Block) -> bool:
    found = [
        one
        for link in (*block.links, *block.links_before)
        for one in sections(link.page)
        if link.anchor in ("", one.anchor)
    ]
    return any(not unproved(one) for one in found)


@pytest.mark.parametrize("file", [README, *MEASURED, *PAGES], ids=lambda file: file.stem)
def test_modules_of_commands_exist(file: Path) -> None:
    modules = [ROOT.joinpath(*name.split(".")) for name in _MODULE.findall(file.read_text(encoding="utf-8"))]
    assert [
        str(one) for one in modules if not (one.with_suffix(".py").exists() or (one / "__main__.py").exists())
    ] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.99 [0.93, 1.00] of 1,576 and -0.027", ["0.99 [0.93, 1.00]", "1,576", "-0.027"]),
        ("61 % of 72 answers (0.5 ms) took 70.5x", ["61 %", "72", "0.5"]),
        ("gemma-3-270m, 4-bit, v3, `k = 5`, Python 3.11, 0.1.4 and 127.0.0.1", []),
        ("On 30 November 2026 (2026-11-30), the 95 % interval", []),
        ("[3 of 8](page.md#section-7)", ["3", "8"]),
    ],
)
def test_figures_of_a_text(text: str, found: list[str]) -> None:
    assert [one.text for one in figures(text)] == found


@pytest.mark.parametrize(
    ("text", "measured", "lacks"),
    [
        ("99 % and 0.5", "0.99 and 0.503", []),
        ("71 tokens", "70.5 or 70.8", []),
        ("0.98", "0.99", ["0.98"]),
        ("0.98 [0.93, 1.00]", "0.98 [0.92, 1.00]", ["0.98 [0.93, 1.00]"]),
        ("1,404", "1404 and 2", []),
        ("3", "0.03", ["3"]),
        ("3 %", "0.03", []),
    ],
)
def test_figure_is_found_with_more_digits_and_as_a_share(text: str, measured: str, lacks: list[str]) -> None:
    assert missing(figures(text), measured) == lacks


def _block(folder: Path, text: str, measured: str) -> Block:
    """Write a page and a page of measurements, and return the first block of the first page."""
    page(folder / "measured", "m.md", f"# M\n\n## Speed\n\n{measured}\n\n## Other\n\n7.7\n")
    return sections(page(folder, "readme.md", f"# R\n\n{text}\n"))[0].blocks()[-1]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("It takes 5.5 ms ([table](measured/m.md#speed)).", []),
        ("It takes 5.6 ms ([table](measured/m.md#speed)).", ["5.6"]),
        ("It takes 7.7 ms ([table](measured/m.md#speed)).", ["7.7"]),
        ("It takes 7.7 ms ([table](measured/m.md)).", []),
        ("It takes 5.5 ms.", ["5.5"]),
        ("[Speed](measured/m.md#speed):\n\n| a | b |\n| --- | --- |\n| x | 5.6 |", ["5.6"]),
    ],
)
def test_figure_that_differs_from_the_linked_section_is_found(text: str, wrong: list[str], tmp_path: Path) -> None:
    assert wrong_figures(_block(tmp_path, text, "| x | 5.5 |"), tmp_path) == wrong


def test_figures_of_a_row_that_come_from_two_rows_are_found(tmp_path: Path) -> None:
    measured = "| x | 5.5 | 1.1 |\n| y | 6.6 | 2.2 |"
    right = _block(tmp_path, "| x | 5.5 | 1.1 | [m](measured/m.md#speed) |", measured)
    mixed = _block(tmp_path, "| x | 5.5 | 2.2 | [m](measured/m.md#speed) |", measured)
    assert (split_row(right), split_row(mixed)) == ([], ["5.5", "2.2"])


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("`make quality`, 30 November 2026\n\n| a |\n", []),
        ("`make quality`\n\n| a |\n", ["date"]),
        ("2026-11-30\n\n| a |\n", ["command"]),
        ("make sure, 2026-11-30\n\n| a |\n", ["command"]),
        ("### Inner\n\n2026-11-30 `make quality`\n", ["date", "command"]),
    ],
)
def test_table_without_a_date_or_a_command_is_found(text: str, lacks: list[str], tmp_path: Path) -> None:
    section = sections(page(tmp_path, "m.md", f"# M\n\n## Speed\n\n{text}"))[1]
    assert unproved(section) == lacks
    assert unproved_tables(section) in ([lacks], [])


def test_date_of_a_later_table_does_not_count(tmp_path: Path) -> None:
    text = "`make quality`\n\n| a |\n\nThe next one:\n\n| b |\n\nMeasured on 2026-11-30.\n"
    section = sections(page(tmp_path, "m.md", f"# M\n\n{text}"))[0]
    assert unproved_tables(section) == [["date"], []]


def test_date_and_command_above_a_section_count(tmp_path: Path) -> None:
    text = "# M\n\n2026-11-30\n\n## Speed\n\n`make quality`\n\n### A\n\n| a |\n\n## Size\n\n| a |\n"
    found = {one.anchor: unproved(one) for one in sections(page(tmp_path, "m.md", text))}
    assert found == {"m": ["command"], "speed": [], "a": [], "size": ["command"]}


def test_comment_in_code_is_no_heading(tmp_path: Path) -> None:
    text = "# M\n\n```sh\n# not a heading\n```\n\n## M\n"
    assert [one.anchor for one in sections(page(tmp_path, "m.md", text))] == ["m", "m-1"]
