"""Tests the site of the pages in a browser: they fit a phone, everybody can use them, the search needs no server."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.checks import serious_violations
from tests.browser.conftest import Open, Scheme
from tests.neutral import ROOT

pytestmark = pytest.mark.slow

_PAGES = ("README", "docs/run-toml", "docs/benchmarks/proxy", "docs/architecture")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "-c", "docs", "-d", str(folder / "trees")]
    subprocess.run([*command, "-b", "html", ".", str(folder / "html")], cwd=ROOT, check=True)
    return folder / "html"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_the_screen(site: Path, open_page: Open, width: int, scheme: Scheme) -> None:
    with open_page(width, scheme) as page:
        for name in _PAGES:
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_the_pages(site: Path, open_page: Open, scheme: Scheme) -> None:
    with open_page(390, scheme) as page:
        for name in (*_PAGES, "search"):
            page.goto((site / f"{name}.html").as_uri())
            assert serious_violations(page) == [], name


def test_first_page_leads_to_the_readme(site: Path, open_page: Open) -> None:
    with open_page(1280, "light") as page:
        page.goto((site / "index.html").as_uri())
        page.wait_for_url("**/README.html")
        assert page.get_by_role("link", name="Optimizing", exact=True).count()


def test_search_finds_a_page_without_a_server(site: Path, open_page: Open) -> None:
    with open_page(1280, "light") as page:
        page.goto((site / "search.html").as_uri() + "?q=guardrail")
        page.locator("#search-results a[href*='docs/experiments']").first.wait_for()
