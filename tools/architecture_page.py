"""Writes the generated part of docs/architecture.md: packages and layers, from the import contracts in pyproject.toml.

    python tools/architecture_page.py           writes the page
    python tools/architecture_page.py --check   exits with status 1 if the page is out of date

The text of a package is the first paragraph of its docstring. This script imports none of the packages.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- layers: begin -->\n", "<!-- layers: end -->"


def main(arguments: list[str]) -> int:
    """Write or check the page. Returns the exit status."""
    text = PAGE.read_text(encoding="utf-8")
    new = with_layers(text)
    if "--check" in arguments:
        return int(text != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


def with_layers(page: str) -> str:
    """Return the text of the page with a new generated part."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n".join(_sections()) + "\n" + END + rest.partition(END)[2]


def _sections() -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in project["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and "containers" in contract:
            yield from _section(contract["containers"][0], contract["layers"])


def _section(package: str, layers: list[str]) -> Iterator[str]:
    yield f"### {package}\n"
    yield "| layer | package | what it does | modules |"
    yield "| --- | --- | --- | --- |"
    for number, layer in enumerate(reversed(layers), 1):
        for name in sorted(part.strip() for part in layer.replace(":", "|").split("|")):
            yield from _rows(number, ROOT / package / name)
    yield ""


def _rows(number: int, place: Path) -> Iterator[str]:
    """Yield the row of a package and one row for each package in it, or the row of a module that is in no package."""
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    shown = place if place.is_dir() else path
    yield f"| {number} | {_link(shown)} | {_first_paragraph(path)} | {_modules(place)} |"
    if place.is_dir():
        for inner in sorted(one.parent for one in place.glob("*/__init__.py")):
            yield from _rows(number, inner)


def _link(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    return f"[`{name}`](../{name})"


def _modules(place: Path) -> str:
    return ", ".join(f"`{path.stem}`" for path in sorted(place.glob("*.py")) if path.name != "__init__.py")


def _first_paragraph(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
