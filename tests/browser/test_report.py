"""Tests the pages of a run in a browser: they fit a phone, everybody can use them, and their details can be opened."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from optimizer.core.config import read_config
from optimizer.core.journal import Journal, read_journal
from optimizer.improve.summary_page import Improvement, NextStep, summary_html
from optimizer.report.html_report import write_report
from optimizer.report.run_summary import summarize_run
from optimizer.stages.run import run
from tests.browser.checks import check_keyboard, check_texts, serious_violations
from tests.browser.conftest import Open, Scheme
from tests.browser.operated import ARABIC, HARD, LONG_NAME
from tests.optimizer.scripted_models import open_scripted_models, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")

    async def make() -> Path:
        async with open_scripted_models() as (_, url):
            weighed = {"weights": {"judge": 1.0}, "confirm": 5}
            given = write_run(folder, url, reward=weighed, bundle={"name": LONG_NAME})
            for part in ("train", "sealed"):
                with (folder / f"{part}.jsonl").open("a") as rows:
                    rows.writelines(f"\n{json.dumps({'query': f'{text} ({part})'})}" for text in HARD)
            config = read_config(given)
            with Journal(folder / "out") as journal:
                await run(config, folder / "out", journal, lambda _: None)
        return write_report(folder / "out")

    with ThreadPoolExecutor(1) as aside:  # the browser's event loop occupies this thread
        return aside.submit(lambda: asyncio.run(make())).result()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_the_screen_and_its_details_open(report: Path, open_page: Open, width: int, scheme: Scheme) -> None:
    with open_page(width, scheme) as page:
        page.goto(report.as_uri())
        check_texts(page)
        assert page.get_by_text("The new bundle is better than the baseline").first.is_visible()
        place = page.evaluate("[...document.querySelectorAll('details')].findIndex(one => !one.open)")
        closed = page.locator("details").nth(place)
        inside = closed.locator(":scope > :not(summary)").first
        assert not inside.is_visible()
        closed.locator("summary").first.click()
        assert inside.is_visible()
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert serious_violations(page) == []
        check_texts(page)
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
        ARABIC, place, {"requests": 3}, "Read 3 requests.", {"sealed": 1}, 2, [place, ARABIC], run, place, steps
    )
    path = report.with_name("summary.html")
    path.write_text(summary_html(found), encoding="utf-8")
    with open_page(width, scheme) as page:
        page.goto(path.as_uri())
        assert page.get_by_text("The new bundle is better than the current bundle").is_visible()
        assert serious_violations(page) == []
        check_texts(page)
        assert check_keyboard(page) > 2
        page.screenshot(path=report.with_name(f"summary-{width}-{scheme}.png"), full_page=True)


def test_keyboard_reaches_every_detail_of_the_report(report: Path, open_page: Open) -> None:
    with open_page(390, "light") as page:
        page.goto(report.as_uri())
        assert check_keyboard(page) > 20
