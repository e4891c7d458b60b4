"""Tests the report of a run in a browser: it fits a phone, and its details can be opened."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from optimizer.core.config import read_config
from optimizer.core.journal import Journal, read_journal
from optimizer.improve.summary_page import Improvement, NextStep, summary_html
from optimizer.report.html_report import write_report
from optimizer.report.run_summary import summarize_run
from optimizer.stages.run import run
from tests.browser.conftest import Open, Scheme
from tests.optimizer.scripted_models import open_scripted_models, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")

    async def make() -> Path:
        async with open_scripted_models() as (_, url):
            weighed = {"weights": {"judge": 1.0}, "confirm": 5}
            config = read_config(write_run(folder, url, reward=weighed))
            with Journal(folder / "out") as journal:
                await run(config, folder / "out", journal, lambda _: None)
        return write_report(folder / "out")

    with ThreadPoolExecutor(1) as aside:  # the browser's own event loop has this thread
        return aside.submit(lambda: asyncio.run(make())).result()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_the_screen_and_its_details_open(report: Path, open_page: Open, width: int, scheme: Scheme) -> None:
    with open_page(width, scheme) as page:
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
        assert page.get_by_text("The new bundle is better than the baseline").first.is_visible()
        place = page.evaluate("[...document.querySelectorAll('details')].findIndex(one => !one.open)")
        closed = page.locator("details").nth(place)
        inside = closed.locator(":scope > :not(summary)").first
        assert not inside.is_visible()
        closed.locator("summary").first.click()
        assert inside.is_visible()
        page.screenshot(path=report.with_name(f"report-{width}-{scheme}.png"), full_page=True)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_summary_of_an_improvement_fits_the_screen_with_long_paths(
    report: Path, open_page: Open, width: int, scheme: Scheme
) -> None:
    place = "/var/lib/drpo-improve/" + "a-long-name-of-a-folder-" * 9
    run = summarize_run(read_journal(report.parent))
    steps = [NextStep(f"Copy it to {place}.", f"cp {place}/experiment.toml EXPERIMENTS")]
    found = Improvement(
        "week-1", place, {"requests": 3}, "Read 3 requests.", {"sealed": 1}, 2, [place], run, place, steps
    )
    path = report.with_name("summary.html")
    path.write_text(summary_html(found), encoding="utf-8")
    with open_page(width, scheme) as page:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
        assert page.get_by_text("The new bundle is better than the current bundle").is_visible()
        page.screenshot(path=report.with_name(f"summary-{width}-{scheme}.png"), full_page=True)
