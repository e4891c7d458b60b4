"""Tests Open WebUI as a person uses it in a browser.

Chats get examples, and the page's background requests get none.
"""

import json
from functools import partial
from pathlib import Path
from typing import Final

from playwright.sync_api import expect

from proxy.backends.embedded.model_file import MODEL_NAME
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.export import export
from tests.clients.answers import QUESTION, check_answer, leftovers
from tests.open_webui.conftest import Chats
from tests.open_webui.environment import SETTINGS
from tests.open_webui.recorder import Exchange

_ALIGNED: Final = f"{MODEL_NAME}@aligned"
_RAW: Final = f"{MODEL_NAME}@raw"
_FIELDS: Final = {"title", "tags", "follow_ups"}


def _chat(exchanges: list[Exchange]) -> Exchange:
    [found] = [one for one in exchanges if one.is_chat]
    assert found.status == 200, found.reply
    return found


def test_variants_are_in_the_list_of_models(chats: Chats) -> None:
    chats.new(MODEL_NAME)
    chats.choose(_RAW)
    expect(chats.page.get_by_role("button", name=f"Selected model: {_RAW}")).to_be_visible()


def test_session_has_examples_in_every_turn_and_none_in_what_the_page_asks_for_itself(
    chats: Chats, folder: Path
) -> None:
    """A question, a second turn, the same turn again, and a turn without alignment."""
    chats.new(_ALIGNED)
    first = chats.exchanges(partial(chats.ask, QUESTION), _ALIGNED, background=3)
    assert _chat(first).replied["x-drpo-examples"]
    assert _chat(first).body == {"stream": True, "model": _ALIGNED, "messages": [{"role": "user", "content": QUESTION}]}
    check_answer(chats.answers[-1])
    background = [one for one in first if not one.is_chat]
    assert {field for one in background for field in one.object} == _FIELDS
    for one in background:
        assert (one.status, one.replied["x-drpo-reduced"], one.replied["x-drpo-examples"]) == (200, "background", "")
    title = next(one.object["title"] for one in background if "title" in one.object)
    expect(chats.page.get_by_text(title, exact=True).first).to_be_visible()
    expect(chats.page.get_by_text("Follow up", exact=True)).to_be_visible()
    chats.page.screenshot(path=folder / "chat.png")

    second = _chat(chats.exchanges(partial(chats.ask, "And of Italy?"), _ALIGNED, background=1))
    assert [message["role"] for message in second.body["messages"]] == ["user", "assistant", "user"]
    assert second.replied["x-drpo-examples"] == _chat(first).replied["x-drpo-examples"], "chosen by the first question"
    assert not leftovers(chats.answers[-1])

    def regenerate() -> None:
        chats.page.get_by_role("button", name="Regenerate", exact=True).last.click()
        chats.page.get_by_text("Try Again", exact=True).click()

    again = _chat(chats.exchanges(regenerate, _ALIGNED))
    assert (again.body, again.replied["x-drpo-examples"]) == (second.body, second.replied["x-drpo-examples"])

    chats.choose(_RAW)

    def interrupt() -> None:
        chats.ask("Is it large?")
        chats.page.wait_for_timeout(8000)
        _stop(chats)

    raw = _chat(chats.exchanges(interrupt, _RAW))
    assert (raw.body["model"], raw.replied["x-drpo-variant"]) == (_RAW, "raw")
    assert "x-drpo-examples" not in raw.replied


def _stop(chats: Chats) -> None:
    """Press the button that stops an answer, if the answer has not ended by itself."""
    button = chats.page.get_by_role("button", name="Stop", exact=True)
    if button.count():
        button.first.click()


def test_two_variants_answer_side_by_side(chats: Chats, folder: Path) -> None:
    """The raw answer may never end, so the user stops it."""
    chats.new(_RAW, _ALIGNED)

    def compare() -> None:
        chats.exchanges(partial(chats.ask, "Give me a short birthday wish for a colleague."), _ALIGNED)
        _stop(chats)
        chats.page.mouse.move(0, 0)  # no tooltip in the picture

    found = {one.body["model"]: one for one in chats.exchanges(compare, _RAW) if one.is_chat}
    assert found[_ALIGNED].replied["x-drpo-examples"]
    assert found[_RAW].replied["x-drpo-variant"] == "raw"
    chats.page.screenshot(path=folder / "side-by-side.png")


def test_user_of_open_webui_is_the_unit_of_an_experiment(chats: Chats, folder: Path) -> None:
    """Two chats of one person are one unit. The requests of the page itself are in no arm."""
    names = set()
    for question in (QUESTION, "Which country is Berlin in?"):
        chats.new(MODEL_NAME)
        found = chats.exchanges(partial(chats.ask, question), MODEL_NAME, background=1)
        assert _chat(found).replied["x-drpo-experiment"] == "tone=aligned"
        names |= {one.headers["x-openwebui-user-id"] for one in found}
        assert not any("x-drpo-experiment" in one.replied for one in found if not one.is_chat)
    assert len(names) == 1
    units = _units(folder)
    while len(units) < 2:  # they are written soon after the reply
        chats.page.wait_for_timeout(500)
        units = _units(folder)
    assert (len(units), len(set(units))) == (2, 1)


def _units(folder: Path) -> list[object]:
    rows = export(dsn_of(f"sqlite:{folder / 'store.sqlite3'}"), "tone")
    return [row["unit"] for row in rows if row["type"] == "exposure" and not row["override"]]


def test_user_reads_what_to_switch_off_if_the_page_offers_tools(chats: Chats) -> None:
    """Open WebUI offers its own tools unless an administrator switches them off. A base model cannot call them."""
    metadata = json.loads(SETTINGS["DEFAULT_MODEL_METADATA"])
    metadata["capabilities"]["builtin_tools"] = True
    token = chats.page.evaluate("localStorage.token")
    headers = {"Authorization": f"Bearer {token}"}
    place = f"{chats.url}/api/v1/configs/models"
    settings = chats.page.request.get(place, headers=headers).json()
    chats.page.request.post(place, headers=headers, data={**settings, "DEFAULT_MODEL_METADATA": metadata})
    chats.new(MODEL_NAME)
    [refused] = [one for one in chats.exchanges(partial(chats.ask, QUESTION), MODEL_NAME) if one.is_chat]
    assert refused.status == 400
    assert len(refused.body["tools"]) > 20
    expect(chats.page.get_by_text("Builtin Tools").first).to_be_visible()
