"""Settings of Sphinx for `make docs`. The site consists of the pages that people also read in the repository."""

import re
from pathlib import Path
from typing import Any, Final

from sphinx.application import Sphinx

project: Final = "drpo"
author: Final = "the authors of drpo"
extensions: Final = ["myst_parser"]
root_doc: Final = "README"
include_patterns: Final = [
    *("*.md", "docs/**", "examples/**", "deploy/*.md"),
    *("index/*.md", "optimizer/*.md", "proxy/*.md", "tests/*/README.md"),
]
exclude_patterns: Final = [".*", "build", "dist", "runs"]
myst_heading_anchors: Final = 4  # levels of headings whose anchors are those of code-hosting pages
smartquotes: Final = False  # quotes in values, such as "chat", are copied into files
nitpicky: Final = True  # with -W, a link without a target is an error
html_theme: Final = "furo"
html_title: Final = "drpo"
html_copy_source: Final = False
html_show_copyright: Final = False
html_show_sourcelink: Final = False
html_show_search_summary: Final = False  # a browser refuses to load the excerpts if the site has no server
html_permalinks_icon: Final = "#"
pygments_style: Final = "default"
pygments_dark_style: Final = "github-dark"

# The headings and pages that the navigation shows below a page. `*` stands for all pages of a folder.
_NAVIGATION: Final = {
    "README": {
        "Serve a model": "serving clients fit fewer-examples model-servers api flags",
        "Bundles": "bundles retrieval example-sets published-prompts embedders learned-bundles",
        "Learn a bundle": "optimizing rewards search recipes run-toml run-failures improving harvest scrubbing taste",
        "Experiments and operation": "experiments experiment-file deploying scaling security supply-chain versions",
        "Background": "faq comparison method benchmarks glossary architecture decisions/README",
        "More": "README /examples/README /CONTRIBUTING /SECURITY /CHANGELOG",
    },
    "docs/benchmarks": {"": "benchmarks/*"},
    "docs/decisions/README": {"": "decisions/*"},
    "docs/deploying": {"": "/deploy/*"},
    "examples/README": {"": "/examples/*/*"},
    "CONTRIBUTING": {"": "/index/* /optimizer/* /proxy/* /tests/*/*"},
}
_LINK: Final = re.compile(r"(?<!!)\[([^]]+)\]\(([^)\s#]+)\)")
_REDIRECT: Final = '<!doctype html><title>drpo</title><meta http-equiv="refresh" content="0; url=README.html">\n'


def setup(app: Sphinx) -> None:
    """Tell Sphinx which functions change the pages."""
    app.connect("source-read", _add_navigation)
    app.connect("source-read", _show_links_to_folders_as_text)
    app.connect("html-page-context", _add_what_screen_readers_and_keyboards_need, priority=900)  # after the theme
    app.connect("build-finished", _write_first_page)


def _add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Add hidden lists of pages. They are not in the files, where code-hosting pages would show them."""
    for heading, pages in _NAVIGATION.get(page, {}).items():
        paths = [name if name.startswith("/") else f"/docs/{name}" for name in pages.split()]
        head = ["", "```{toctree}", ":hidden:", ":glob:", f":caption: {heading}" if heading else "", ""]
        source[0] += "\n".join([*head, *paths, "```", ""])


def _show_links_to_folders_as_text(app: Sphinx, page: str, source: list[str]) -> None:
    """The site has no pages of folders."""
    here = Path(app.srcdir, page).parent
    source[0] = _LINK.sub(lambda link: link[1] if (here / link[2]).is_dir() else link[0], source[0])


def _add_what_screen_readers_and_keyboards_need(
    _app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: object
) -> None:
    """On a phone, blocks of code and tables scroll sideways: those that can have the focus scroll by keys, too.

    The theme does not say at which level the captions of its navigation are headings.
    """
    for part, before, after in (
        ("body", "<pre>", '<pre tabindex="0">'),
        ("body", '<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
        ("furo_navigation_tree", 'role="heading"', 'role="heading" aria-level="2"'),
    ):
        if part in context:
            context[part] = context[part].replace(before, after)


def _write_first_page(app: Sphinx, _failure: Exception | None) -> None:
    Path(app.outdir, "index.html").write_text(_REDIRECT, encoding="utf-8")
