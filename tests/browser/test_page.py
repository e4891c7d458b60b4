"""Tests the operator page in a browser: on narrow screens, in the dark scheme, with answers that contain markup.

The playground asks the real embedded model. Experiments are shown from a store of made-up exposures over nine days.
"""

import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from proxy.experiments.config import read_experiment
from proxy.experiments.definition import assign
from proxy.experiments.records import Content, Feedback
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Batch, Store
from tests.browser.checks import check_texts
from tests.browser.conftest import Open, Scheme
from tests.browser.operated import MARKUP, page_of
from tests.proxy.experiments.store.test_store import exposure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXPERIMENT = """
name = "tone"
metrics = ["thumbs_up", "latency", "ended_by_itself", "a_metric_with_a_long_name_that_somebody_gave_it_in_a_hurry"]

[[arms]]
name = "raw"
variant = "raw-matched"
weight = 50

[[arms]]
name = "aligned"
variant = "aligned"
weight = 50

[[guardrails]]
metric = "latency"
tolerance = 0.5
"""
LONG_NAME = "a_name_that_is_long_" * 4
QUESTIONS = (MARKUP, "x" * 300, "كيف يمكنني إعادة تعيين كلمة المرور؟")
DAY = 86_400.0
SCREENS = [(1280, "light"), (1280, "dark"), (320, "light"), (320, "dark")]
ZOOMED = (640, "dark")  # the width of 1280 pixels at a zoom of 200 %
screens = pytest.mark.parametrize(("width", "scheme"), SCREENS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment and a filled store. Screenshots are written to it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tone.toml").write_text(EXPERIMENT)
    experiment, dice, now = read_experiment(folder / "tone.toml").experiment, random.Random(3), time.time()
    exposures, feedback, contents = [], [], []
    for number in range(1800):
        unit = b"%016d" % number
        aligned = assign(experiment, unit).name == "aligned"
        exposures.append(
            exposure(
                number,
                experiment="tone",
                unit=unit,
                arm="aligned" if aligned else "raw",
                time=now - 9 * DAY * (1 - number / 1800),
                latency=dice.lognormvariate(0.2 if aligned else 0.3, 0.5),
                ended_by_itself=dice.random() < (0.93 if aligned else 0.2),
                example_set=dice.choice(("cooking", LONG_NAME)) if aligned else None,
            )
        )
        likes = float(dice.random() < (0.62 if aligned else 0.51))
        feedback.append(Feedback(exposures[-1].request_id, "thumbs_up", likes, None, now))
        if number % 50 == 0:
            feedback.append(Feedback(exposures[-1].request_id, "why", None, MARKUP, now))
            asked = json.dumps({"messages": [{"role": "user", "content": dice.choice(QUESTIONS)}]})
            answered = json.dumps({"choices": [{"index": 0, "message": {"content": MARKUP}}]})
            contents.append(Content(exposures[-1].id, asked, answered))
    with Store(dsn_of(f"sqlite:{folder / 'store.sqlite3'}")) as store:
        store.write(Batch(exposures, contents, feedback=feedback))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The page of a real server with the embedded model."""
    command = [sys.executable, "-m", "proxy", "--backend", "embedded", "--port", "0", "--experiment"]
    command += [str(folder / "tone.toml"), "--store", f"sqlite:{folder / 'store.sqlite3'}"]
    with (folder / "server.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            yield page_of(folder / "server.log", server)
        finally:
            server.terminate()


@screens
def test_playground_shows_two_answers_with_examples_text_and_timing(
    url: str, folder: Path, open_page: Open, width: int, scheme: Scheme
) -> None:
    with open_page(width, scheme) as page:
        page.goto(url)
        page.get_by_placeholder("Ask something").fill("How do I pick a lock to rob a house?")
        page.get_by_role("button", name="Ask", exact=True).click()
        for arm in ("aligned", "raw-matched"):
            card = page.locator(f".card.{arm}")
            expect(card.locator("dd").nth(4)).to_be_visible(timeout=120_000)
            assert card.locator(".text").inner_text().strip()
        aligned = page.locator(".card.aligned")
        expect(aligned.locator("summary").first).to_contain_text("examples shown")
        aligned.locator("summary").last.click()
        expect(aligned.locator("pre")).to_contain_text("How do I pick a lock to rob a house?\n\n# Answer:")
        aligned.locator("summary").last.click()
        check_texts(page)
        page.screenshot(path=folder / f"playground-{width}-{scheme}.png", full_page=True)


def test_answer_with_markup_is_shown_as_text(url: str, open_page: Open) -> None:
    def answer(route: Route) -> None:
        chunk = {"choices": [{"index": 0, "delta": {"content": MARKUP}, "finish_reason": "stop"}]}
        route.fulfill(content_type="text/event-stream", body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    def explain(route: Route) -> None:
        example = {"id": "e", "query": MARKUP, "response": MARKUP, "pinned": False, "similarity": 0.5}
        plan = {"variant": "aligned", "text": MARKUP, "examples": [example], "tokens": 3, "sampling": {}, "set": MARKUP}
        plan |= {"nearest": ["e"], "is_below_floor": False}
        route.fulfill(content_type="application/json", body=json.dumps(plan))

    with open_page(1280, "light") as page:
        page.route("**/ui/api/chat", answer)
        page.route("**/ui/api/explain", explain)
        page.goto(url)
        page.get_by_placeholder("Ask something").fill(MARKUP)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".card.aligned .text")).to_have_text(MARKUP)
        expect(page.locator(".card.aligned .query [dir]")).to_have_text(MARKUP)
        assert page.locator("main script, main img").count() == 0
        assert page.title() == "Playground · drpo"


def test_error_of_the_server_is_shown_in_place_of_the_answer(url: str, open_page: Open) -> None:
    told = {"error": {"message": "No backend is up.", "type": "server_error"}}
    with open_page(1280, "light") as page:
        page.route(
            "**/ui/api/chat",
            lambda route: route.fulfill(
                status=200, content_type="text/event-stream", body=f"data: {json.dumps(told)}\n\n"
            ),
        )
        page.goto(url)
        page.get_by_role("button", name="What is DNA?").click()
        expect(page.get_by_role("alert").first).to_have_text("No backend is up.")


@pytest.mark.parametrize(("width", "scheme"), [*SCREENS, ZOOMED])
def test_improve_shows_feedback_questions_and_changes(
    url: str, folder: Path, open_page: Open, width: int, scheme: Scheme
) -> None:
    with open_page(width, scheme) as page:
        page.goto(f"{url}#improve")
        expect(page.locator(".verdict")).to_be_visible(timeout=60_000)
        expect(page.locator(".sets tbody tr")).to_have_count(3)
        expect(page.locator(".asked .question").first).to_be_visible()
        assert set(page.locator(".asked .question").all_inner_texts()) <= set(QUESTIONS)
        page.locator(".asked summary").first.click()
        assert page.locator("main script, main img").count() == 0
        expect(page.locator(".changes")).to_contain_text("The control has no bundle")
        check_texts(page)
        page.screenshot(path=folder / f"improve-{width}-{scheme}.png", full_page=True)


def test_improve_says_what_to_do_where_nothing_is_recorded(url: str, open_page: Open) -> None:
    feedback = {
        "metric": "thumbs_up",
        "better": "higher",
        "requests": 3,
        "rated": 0,
        "logged": 0,
        "groups": [],
        "worst": [],
    }
    with open_page(320, "light") as page:
        page.route("**/experiments/tone/feedback", lambda route: route.fulfill(json=feedback))
        page.goto(f"{url}#improve")
        expect(page.locator(".sets")).to_contain_text("POST /v1/feedback")
        feedback |= {"rated": 3}
        page.reload()
        expect(page.locator(".worst")).to_contain_text("--store-content")
        page.route("**/experiments", lambda route: route.fulfill(json=[]))
        page.reload()
        expect(page.locator(".empty")).to_contain_text("--store-content")
        check_texts(page)


@pytest.mark.parametrize(("width", "scheme"), [*SCREENS, ZOOMED])
def test_improve_shows_the_feedback_on_requests_in_no_experiment(
    url: str, folder: Path, open_page: Open, width: int, scheme: Scheme
) -> None:
    group = {"arm": "", "example_set": "food", "requests": 3, "rated": 2, "mean": 0.5}
    worst = {"arm": "", "example_set": "food", "count": 1, "value": 0.0, "time": 1e9, "question": "Why is tea hot?"}
    worst |= {"answer": "Because.", "comments": ["Too short."]}
    feedback = {"metric": "thumbs_up", "better": "higher", "requests": 3, "is_cut": False, "rated": 2, "logged": 2}
    feedback |= {"groups": [group], "worst": [worst]}
    with open_page(width, scheme) as page:
        page.route(re.compile(r":\d+/feedback$"), lambda route: route.fulfill(json=feedback))
        page.goto(f"{url}#improve")
        page.get_by_role("link", name="no experiment").click()
        expect(page.get_by_role("heading", name="Requests in no experiment")).to_be_visible()
        page.route("**/experiments", lambda route: route.fulfill(json=[]))
        page.goto(f"{url}#improve")
        page.reload()
        expect(page.locator(".asked .question")).to_have_text("Why is tea hot?")
        expect(page.locator(".worst")).not_to_contain_text("arm")
        check_texts(page)
        page.screenshot(path=folder / f"improve-apart-{width}-{scheme}.png", full_page=True)


@pytest.mark.parametrize(("width", "scheme"), [*SCREENS, ZOOMED])
def test_experiment_shows_verdict_arms_and_intervals(
    url: str, folder: Path, open_page: Open, width: int, scheme: Scheme
) -> None:
    with open_page(width, scheme) as page:
        page.goto(f"{url}#experiments")
        expect(page.locator(".verdict")).to_be_visible(timeout=60_000)
        report = json.load(urllib.request.urlopen(f"{url.removesuffix('/ui')}/experiments/tone"))
        assert page.locator(".verdict").inner_text() == report["verdict"]["sentence"]
        assert page.locator(".advice").inner_text() == f"What to do: {report['verdict']['advice']['sentence']}"
        shown = page.locator("tbody").inner_text()
        assert all(one["headline"]["short"] in shown for one in report["comparisons"] if one["headline"])
        assert page.locator(".shares li").count() == 2
        assert page.locator("tbody tr").count() == 4
        assert page.locator(".curve").count() == 1
        check_texts(page)
        page.screenshot(path=folder / f"experiments-{width}-{scheme}.png", full_page=True)


@screens
def test_bundle_is_searched_by_a_question(url: str, folder: Path, open_page: Open, width: int, scheme: Scheme) -> None:
    with open_page(width, scheme) as page:
        page.goto(f"{url}#bundles")
        assert page.locator(".map circle").first.is_visible() or page.locator(".map circle").first.wait_for() is None
        page.get_by_label("Which examples does a question find?").fill("How do I get rid of a noisy neighbour?")
        page.get_by_role("button", name="Search").click()
        expect(page.locator(".found li.shown").first).to_be_visible()
        assert page.locator(".map .shown").count() == page.locator(".found ol").first.locator("li").count()
        check_texts(page)
        page.screenshot(path=folder / f"bundles-{width}-{scheme}.png", full_page=True)


@screens
def test_live_numbers_move(url: str, folder: Path, open_page: Open, width: int, scheme: Scheme) -> None:
    with open_page(width, scheme) as page:
        page.goto(f"{url}#live")
        expect(page.locator(".backends .good")).to_have_count(1)
        requests = page.locator("dl.facts dd").first
        before = requests.inner_text()
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}).encode()
        ask = urllib.request.Request(f"{url}/api/chat", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(ask).read()
        expect(requests).not_to_have_text(before, timeout=60_000)
        check_texts(page)
        page.screenshot(path=folder / f"live-{width}-{scheme}.png", full_page=True)


def test_scheme_can_be_switched_and_views_are_reached_by_keyboard(url: str, open_page: Open) -> None:
    with open_page(1280, "light") as page:
        page.goto(url)
        page.get_by_label("Switch between light and dark").click()
        expect(page.locator("html")).to_have_attribute("data-scheme", "dark")
        for view in ("Experiments", "Improve", "Bundles", "Live", "Playground"):
            page.get_by_role("link", name=view, exact=True).focus()
            page.keyboard.press("Enter")
            expect(page.get_by_role("link", name=view, exact=True)).to_have_attribute("aria-current", "page")
