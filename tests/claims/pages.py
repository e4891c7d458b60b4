"""Reads Markdown pages: their sections, with the anchors of the headings, and their blocks, with the links of each.

A block is a paragraph, an item of a list or a row of a table. Blocks contain no code in fences.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
_LINK: Final = re.compile(r"(?<!!)\[([^]]*)\]\(([^)\s]+)\)")
_ROW: Final = re.compile(r"^\|.*\|$")
_GAP: Final = r"\n(?:[ \t]*\n)+"


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a page of the repository.

    Attributes:
        page: The file.
        anchor: The anchor of a heading; empty for the whole page.
    """

    page: Path
    anchor: str


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, an item of a list or a row of a table.

    Attributes:
        text: Its Markdown.
        links: Its links to pages of the repository.
        links_before: For a row of a table: the links of the paragraph before the table.
        is_row: Whether it is a row of a table. The head of a table is one, too.
    """

    text: str
    links: tuple[Link, ...]
    links_before: tuple[Link, ...] = ()
    is_row: bool = False


@dataclass(frozen=True)
class Section:
    """A heading with all that follows it, up to the next heading of its level or of a higher one.

    Attributes:
        page: The file.
        anchor: The anchor of the heading, as code-hosting pages and the site make it from the words.
        level: The number of `#` of the heading.
        text: The Markdown below the heading.
        above: The text between each heading above this one and the next heading. It also applies to this section.
    """

    page: Path
    anchor: str
    level: int
    text: str
    above: str

    @cached_property
    def own(self) -> str:
        """The text before the first heading below this one."""
        return _split(self.text)[0]

    @property
    def name(self) -> str:
        """The page and the anchor, for messages."""
        return f"{self.page.relative_to(ROOT).as_posix()}#{self.anchor}"

    def before_tables(self) -> tuple[str, ...]:
        """Return, for each table before the first heading below this one, the text up to the first paragraph after it.

        The text above this section is a part of it. Tables and pictures that follow each other share a paragraph.
        """
        parts = [part.strip() for part in re.split(_GAP, self.own)]
        is_text = [not part.startswith(("|", "![", "<!--")) for part in parts]
        ends = [_next(is_text, number) for number, part in enumerate(parts) if part.startswith("|")]
        return tuple("\n\n".join([self.above, *parts[:end]]) for end in ends)

    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks before the first heading below this one."""
        return tuple(_blocks(self.page, self.own))


def sections(page: Path) -> tuple[Section, ...]:
    """Return the sections of a page, in their order. A section contains the text of those below it."""
    text = _without_headings_in_code(page.read_text(encoding="utf-8"))
    found, seen = list(_HEADING.finditer(text)), dict[str, int]()
    read: list[Section] = []
    for number, heading in enumerate(found):
        level = len(heading[1])
        after = (other.start() for other in found[number + 1 :] if len(other[1]) <= level)
        body = text[heading.end() : next(after, len(text))]
        above = _enclosing(read, level)
        read.append(Section(page, _anchor(heading[2], seen), level, body, "\n".join(one.own for one in above)))
    return tuple(read)


def linked(link: Link) -> str:
    """Return the text to which a link leads: a section, or a whole page. It is empty if there is no such section."""
    if not link.anchor:
        return link.page.read_text(encoding="utf-8")
    return next((one.text for one in sections(link.page) if one.anchor == link.anchor), "")


def without_code(text: str) -> str:
    """Return the text without code in fences."""
    return _FENCE.sub("", text)


def without_links(text: str) -> str:
    """Return the text with the words of its links, but without their targets."""
    return _LINK.sub(r"\1", text)


def _enclosing(read: list[Section], level: int) -> list[Section]:
    """Return the sections that contain a following section of this level: the last section of each higher level."""
    found: list[Section] = []
    for one in reversed(read):
        if one.level < (found[-1].level if found else level):
            found.append(one)
    return found


def _without_headings_in_code(text: str) -> str:
    """Return the text, changed so that a comment of a shell does not look like a heading."""
    return _FENCE.sub(lambda fence: re.sub(r"^#", " #", fence[0], flags=re.MULTILINE), text)


def _next(flags: list[bool], start: int) -> int:
    """Return the position after the first true flag from `start` on, or the number of flags if there is none."""
    return next((number + 1 for number in range(start, len(flags)) if flags[number]), len(flags))


def _split(text: str) -> tuple[str, str]:
    heading = _HEADING.search(text)
    return (text[: heading.start()], text[heading.start() :]) if heading else (text, "")


def _anchor(heading: str, seen: dict[str, int]) -> str:
    words = without_links(heading).strip().lower()
    anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
    count = seen[anchor] = seen.get(anchor, -1) + 1
    return f"{anchor}-{count}" if count else anchor


def _blocks(page: Path, text: str) -> Iterator[Block]:
    before: tuple[Link, ...] = ()
    for part in re.split(_GAP, without_code(text).strip()):
        lines = part.splitlines()
        if lines and all(_ROW.match(line) for line in lines):
            yield from (Block(line, _links(page, line), before, is_row=True) for line in lines)
        else:
            yield from (Block(item, _links(page, item)) for item in re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", part))
            before = _links(page, part)


def _links(page: Path, text: str) -> tuple[Link, ...]:
    parts = [target.partition("#") for _, target in _LINK.findall(text) if "://" not in target]
    files = [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in parts]
    return tuple(Link(file, anchor) for file, anchor in files if file.suffix == ".md")
