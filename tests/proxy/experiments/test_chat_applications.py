"""Tests of experiments with chat applications: the header that names their user, and their background requests."""

from pathlib import Path

import pytest

from tests.proxy.experiments.test_service import running_experiment, write
from tests.proxy.openai.background_requests import BACKGROUND, TITLE, user

QUESTIONS = ("How do I bake bread?", "What is tea?", "Who was Ada Lovelace?", "Why is the sky blue?")


@pytest.mark.parametrize("trusts", [True, False])
async def test_user_of_open_webui_stays_in_one_arm_if_the_header_is_trusted(tmp_path: Path, trusts: bool) -> None:
    async with running_experiment(tmp_path, [write(tmp_path)], trust_user_headers=trusts) as one:
        for name in ("ann", "bob"):
            for question in QUESTIONS:
                await one.proxy.chat(question, headers={"X-OpenWebUI-User-Id": name, "X-OpenWebUI-Chat-Id": question})
    units = [row["unit"] for row in one.rows()]
    assert len(set(units[:4])) == len(set(units[4:])) == (1 if trusts else len(QUESTIONS))
    assert (set(units[:4]) == set(units[4:])) is not trusts, "without the header, equal conversations are one unit"


@pytest.mark.parametrize("client", ["open-webui-title", "open-webui-autocomplete", "lobechat", "zed"])
async def test_background_request_is_in_no_experiment(tmp_path: Path, client: str) -> None:
    async with running_experiment(tmp_path, [write(tmp_path, plain=0)]) as one:
        _, headers, _ = await one.proxy.chat(messages=BACKGROUND[client])
        assert "x-drpo-experiment" not in headers
        _, headers, _ = await one.proxy.chat(messages=[*TITLE, {"role": "assistant", "content": "Bread"}, user("Why?")])
        assert headers["x-drpo-experiment"] == "one=new"
    assert len(one.rows()) == 1
