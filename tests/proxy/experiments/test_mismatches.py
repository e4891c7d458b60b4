"""Tests of the warnings about settings of an experiment that can have no effect.

The server prints them at the start and logs them after a reload. `check` prints them, and the operator page shows them.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.__main__ import run
from proxy.api.auth import new_key
from proxy.experiments.config import read_experiments
from proxy.experiments.mismatches import Server, find_mismatches
from proxy.server.reload import reload
from proxy.server.service import status
from tests.faults.process import command
from tests.faults.scripted import scripted_backend
from tests.proxy.experiments.test_service import answer, running_experiment
from tests.proxy.serving import make_settings

NOW = 1_800_000_000.0
SERVER = Server(models={"m", "n"}, bundled={"m"}, keys={"alice"}, judges=True, judge_models=["j", "j@aligned", "j@raw"])
ARMS = '[[arms]]\nname = "a"\nvariant = "raw"\nweight = {a}\n{more}\n[[arms]]\nname = "b"\nweight = {b}\n{variant}\n'


def written(folder: Path, top: str = "", a: float = 1, b: float = 1, more: str = "", variant: str = "") -> str:
    file = folder / "e.toml"
    metrics = "" if "metrics" in top else 'metrics = ["score"]\n'
    file.write_text(
        f'name = "e"\ncontrol = "a"\n{metrics}{top}\n' + ARMS.format(a=a, b=b, more=more, variant=variant),
        encoding="utf-8",
    )
    return str(file)


JUDGE = '[judge]\nmodel = "j"\nshare = {share}\ncalls = {calls}\n'
GUARDRAIL = '[[guardrails]]\nmetric = "{}"\ntolerance = {}\n'
MISMATCHES: list[tuple[dict[str, Any], Server, str]] = [
    ({"top": 'models = ["base"]'}, SERVER, r"`models` names base, which no backend lists. Listed: m, n. No request"),
    ({"top": 'models = ["m", "base"]'}, SERVER, r"`models` names base, which no backend lists. Listed: m, n.$"),
    ({"more": 'model = "base"'}, SERVER, r"the arm a is for the model base, which no backend lists"),
    ({"top": 'keys = ["bob"]'}, SERVER, r"`keys` names bob, but no client key .* There are alice. No request"),
    ({"top": 'keys = ["bob"]'}, Server(keys=()), r"The server requires no keys"),
    ({"top": "end = 2020-01-01"}, SERVER, r"`end` has passed \(2020-01-01 00:00 UTC\)"),
    ({"top": "share = 0"}, SERVER, r"`share` is 0"),
    ({"top": "share = 1e-300"}, SERVER, r"`share` and `slots` leave so few units"),
    ({"top": 'layer = "l"\nslots = [0.5, 0.5000000000001]'}, SERVER, r"`share` and `slots` leave so few units"),
    (
        {"variant": GUARDRAIL.format("score", 2e9)},
        SERVER,
        r"score has the tolerance 2e\+09, .* from -1e\+09 to 1e\+09\.",
    ),
    ({"variant": 'variant = "raw"'}, SERVER, r"the arms a and b serve every request in the same way"),
    ({"top": 'models = ["n"]'}, SERVER, r"the arms a and b serve every request in the same way"),
    ({"more": 'model = "n"', "variant": 'model = "n"'}, SERVER, r"the arms a and b serve every request in the same"),
    ({"top": 'lower_is_better = ["scroe"]'}, SERVER, r"names scroe, which is not among `metrics` and guardrails"),
    ({"top": 'lower_is_better = ["error"]'}, SERVER, r"names error, but the direction of metrics .* is fixed"),
    ({"b": 0}, SERVER, r"only the arm a has a weight above 0"),
    ({"a": 1e-300}, SERVER, r"the weight of the arm a is so small beside the others that no unit gets it"),
    ({"top": 'metrics = ["Latency"]'}, SERVER, r"the metric Latency gets no values: the server measures latency"),
    ({"top": 'metrics = ["completion-tokens"]'}, SERVER, r"the server measures completion_tokens"),
    ({"variant": GUARDRAIL.format("error", 1)}, SERVER, r"guardrail of error has the tolerance 1, which no difference"),
    ({"variant": GUARDRAIL.format("truncated", 5)}, SERVER, r"truncated has the tolerance 5, .* from 0 to 1\."),
    ({"variant": GUARDRAIL.format("latency", 1e12)}, SERVER, r"latency has the tolerance 1e\+12, .* to 1e\+09\."),
    ({"a": 0}, SERVER, r"only the arm b has a weight above 0"),
    ({"variant": 'variant = "aligned"'}, SERVER, r"the arm b has the variant aligned, but n has no bundle"),
    ({"variant": 'variant = "raw-matched"\nmodel = "n"'}, SERVER, r"variant raw-matched, but n has no bundle"),
    ({"top": 'metrics = ["judged_better"]'}, SERVER, r"judged_better gets no values without the table \[judge\]"),
    ({"variant": JUDGE.format(share=0.1, calls=9)}, Server(judges=False), r"started without --judge"),
    ({"variant": JUDGE.format(share=0, calls=9)}, SERVER, r"`share` must be above 0"),
    ({"variant": JUDGE.format(share=0.1, calls=2)}, SERVER, r"`calls` at least 3"),
    *(
        ({"variant": JUDGE.format(share=0.1, calls=9)}, Server(judge_models=listed), says)
        for listed, says in (
            (["k"], r"\[judge\] `model` is j, which the server of --judge does not list. It lists k\.$"),
            (["k", "k@raw"], r"is j, which the server of --judge does not list. It lists k\.$"),
            (["j@q4", "j:8b"], r"It lists j@q4, j:8b\.$"),
        )
    ),
]


@pytest.mark.parametrize(("file", "server", "says"), MISMATCHES, ids=[says for _, _, says in MISMATCHES])
def test_setting_that_can_have_no_effect_is_found(file: Any, server: Server, says: str, tmp_path: Path) -> None:
    (sentence,) = find_mismatches(read_experiments([written(tmp_path, **file)]), server, NOW)["e"]
    assert re.search(says, sentence)


@pytest.mark.parametrize(
    "file",
    [
        {},
        {"top": 'models = ["m"]\nkeys = ["alice"]\nstart = 2020-01-01\nend = 2099-01-01', "b": 9},
        {"top": 'models = ["m"]', "variant": 'variant = "aligned"'},
        {"top": "start = 2098-01-01"},
        {"variant": JUDGE.format(share=0.1, calls=9)},
        {"variant": JUDGE.format(share=0.1, calls=9).replace('"j"', '"j@raw"')},
        {"variant": GUARDRAIL.format("error", 0.99)},
        {"variant": GUARDRAIL.format("score", 1e9)},
        {"top": 'models = ["n"]', "more": 'model = "n"', "variant": 'model = "m"'},
        {"top": 'layer = "l"\nslots = [0.5, 0.501]\nshare = 0.01'},
        {"variant": GUARDRAIL.format("latency", 60), "a": 1e-6},
        {"top": 'metrics = ["late", "errors"]'},
    ],
)
def test_experiment_that_fits_has_no_warning(file: Any, tmp_path: Path) -> None:
    assert find_mismatches(read_experiments([written(tmp_path, **file)]), SERVER, NOW) == {"e": []}


def test_unknown_part_of_a_server_is_no_mismatch(tmp_path: Path) -> None:
    file = written(tmp_path, top='models = ["base"]\nkeys = ["bob"]', variant='variant = "aligned"')
    assert find_mismatches(read_experiments([file]), Server(), NOW) == {"e": []}


async def test_mismatch_is_on_the_page_in_the_status_and_in_the_log_after_a_reload(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    async with running_experiment(tmp_path, [path], answer) as one:
        assert not [line for line in status(one.proxy.gateway).warnings if "experiment" in line]
        assert one.proxy.gateway.experiment_mismatches() == {"e": []}
        written(tmp_path, top='models = ["base"]')
        settings = make_settings(experiment=(path,), store=f"sqlite:{tmp_path}/s.sqlite3")
        await reload(settings, one.proxy.gateway, one.proxy.shared)
        (sentence,) = one.proxy.gateway.experiment_mismatches()["e"]
        assert "base, which no backend lists" in sentence
        assert f"experiment e: {sentence}" in status(one.proxy.gateway).warnings


async def test_backend_that_is_not_up_yet_is_no_mismatch(tmp_path: Path) -> None:
    async with running_experiment(tmp_path, [written(tmp_path, top='models = ["base"]')], answer) as one:
        (backend,) = one.proxy.gateway.pool.backends
        backend.record_check("it does not answer", answering=False)
        assert one.proxy.gateway.experiment_mismatches() == {"e": []}


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_started_server_prints_the_warning_and_logs_it_after_a_reload(workers: str, tmp_path: Path) -> None:
    path = written(tmp_path, top='models = ["base"]')
    old = Path(path).read_text().replace('"e"', '"old"').replace('["base"]', '["other"]\nend = 2020-01-01')
    (tmp_path / "old.toml").write_text(old)
    arguments = ["--experiment", str(tmp_path), "--store", f"sqlite:{tmp_path}/s.sqlite3", "--workers", workers]
    async with scripted_backend(answer) as backend, command("--backend", backend.url, *arguments) as server:
        assert server.store == f"sqlite:{tmp_path}/s.sqlite3     (experiments: e, old (ended))"
        async with aiohttp.ClientSession(server.admin_url) as session:
            async with session.get("/ui/api/state") as response:
                state = await response.json(content_type=None)
            assert "base, which no backend lists" in state["mismatches"]["e"][0]
            async with session.post("/admin/reload") as response:
                assert response.status == 200
        line = json.loads(await server.logged("experiment mismatch"))
        assert "base, which no backend lists" in line["warning"]


@pytest.mark.parametrize("is_up", [True, False])
async def test_experiment_check_compares_with_a_backend(
    is_up: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, top='models = ["base"]\nend = 2020-01-01')
    store = ["--store", f"sqlite:{tmp_path}/s.sqlite3"]
    async with scripted_backend(answer) as backend:
        url = backend.url if is_up else "http://127.0.0.1:9"
        arguments = ["experiment", "check", path, *store, "--backend", url]
        assert await asyncio.to_thread(run, arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "`end` has passed" in printed
    assert ("base, which no backend lists" in printed) == is_up
    assert ("http://127.0.0.1:9 does not answer" in printed) != is_up
    assert "Everything is right" not in printed


async def test_check_reports_the_mismatch_as_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text(new_key("alice")[1], encoding="utf-8")
    path = written(tmp_path, top='models = ["base"]\nkeys = ["bob"]')
    async with scripted_backend(answer) as backend:
        arguments = ["check", "--backend", backend.url, "--experiment", path, "--store", f"sqlite:{tmp_path}/s.sqlite3"]
        arguments += ["--api-keys-file", str(tmp_path / "keys")]
        assert await asyncio.to_thread(run, arguments) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "problem: experiment e: `models` names base" in printed
    assert "There are alice." in printed


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ("j", ""),
        ("k", "[judge] `model` is j, which the server of --judge does not list. It lists k."),
        (None, "problem: --judge http"),
    ],
)
async def test_check_asks_the_server_of_the_judge_for_its_models(
    judge: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, variant=JUDGE.format(share=0.1, calls=9))
    async with scripted_backend(answer) as backend, scripted_backend(answer, model=judge or "j") as other:
        url = other.url if judge else "http://127.0.0.1:9"
        arguments = ["--backend", backend.url, "--experiment", path, "--store", f"sqlite:{tmp_path}/s.sqlite3"]
        code = await asyncio.to_thread(run, ["check", *arguments, "--judge", url, "--bundle", "default"])
    printed = " ".join(capsys.readouterr().out.split())
    assert (code == 1) == bool(says)
    assert says in printed
    assert ("judge" in printed) == bool(says)
