"""Tests which bundle each model gets: by the flag --bundle, and by the names of the models that backends list."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import read_bundle
from index.bundle.shipped import GENERAL
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from proxy.backends.dialects.registry import DIALECTS
from proxy.backends.discovery import Model
from proxy.core.errors import StartupError
from proxy.inference.injection.bundle_flags import check_bundle_arguments, parse_bundle_flag
from proxy.inference.injection.model_bundles import load_bundles, names_of
from proxy.server import bundle_log
from proxy.server.service import status
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.index.shipped_library import BASE_MODEL, CHAT_MODEL, Learned, write_library
from tests.proxy.serving import serving

SERVED = "Qwen/Qwen2.5-Coder-1.5B-Instruct"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    learned = Learned("learned-chat"), Learned("learned-base", BASE_MODEL, -0.01)
    embedder = open_embedder(DEFAULT_EMBEDDER)
    return write_library(tmp_path_factory.mktemp("library") / "shipped", *learned, embedder=embedder)


def models(*names: str, **cards: Mapping[str, Any]) -> dict[str, Model]:
    given = {name: cards.get(name, {}) for name in (*names, *cards)}
    return {name: Model(name, {"id": name, **card}, "chat", DIALECTS[0], 4096) for name, card in given.items()}


def chosen(library: Path, *flags: str, listed: Mapping[str, Model]) -> dict[str, str]:
    """Return the name of the bundle of each model."""
    bundles = load_bundles(flags, (), root=library).of(listed).bundles
    return {model: served.bundle.manifest.name for model, served in bundles.items()}


def test_default_gives_each_listed_model_its_bundle(library: Path) -> None:
    listed = models(SERVED, "Qwen/Qwen2.5-Coder-7B-Instruct", BASE_MODEL)
    expected = {SERVED: "learned-chat", "Qwen/Qwen2.5-Coder-7B-Instruct": GENERAL, BASE_MODEL: GENERAL}
    assert chosen(library, "default", listed=listed) == expected
    reasons = load_bundles(("default",), (), root=library).of(listed).reasons
    assert reasons[SERVED].startswith(f"it was learned for {CHAT_MODEL}, and its composite")
    assert reasons["Qwen/Qwen2.5-Coder-7B-Instruct"].startswith("no bundle of drpo was learned for Qwen/")
    assert reasons[BASE_MODEL].startswith("learned-base, which was learned for this model, is no better")


def test_default_for_one_model_leaves_the_others_alone(library: Path) -> None:
    assert chosen(library, f"{SERVED}=default", listed=models(SERVED, "other")) == {SERVED: "learned-chat"}
    assert chosen(library, "absent=default", listed=models("other")) == {"absent": GENERAL}


def test_other_flags_take_precedence_over_default(library: Path) -> None:
    flags = "default", f"{SERVED}=hand-written", "other=learned-chat"
    found = chosen(library, *flags, listed=models(SERVED, "other", "third"))
    assert found == {SERVED: GENERAL, "other": "learned-chat", "third": GENERAL}


def test_a_bundle_without_a_model_is_for_the_model_in_its_manifest(library: Path) -> None:
    assert chosen(library, "learned-chat", listed=models(SERVED, "other")) == {SERVED: "learned-chat"}
    assert chosen(library, str(library / "learned-chat"), listed=models(SERVED)) == {SERVED: "learned-chat"}
    assert chosen(library, "learned-chat", listed=models("other")) == {CHAT_MODEL: "learned-chat"}
    both = models(CHAT_MODEL, SERVED)
    assert chosen(library, "learned-chat", listed=both) == dict.fromkeys(both, "learned-chat")


def test_the_name_of_the_weights_counts_but_not_that_of_an_adapter(library: Path) -> None:
    root = {"root": f"/models/{SERVED}"}
    listed = models(alias=root, adapter={**root, "parent": "alias"}, plain={"root": None})
    found = chosen(library, "default", listed=listed)
    assert found == {"alias": "learned-chat", "adapter": GENERAL, "plain": GENERAL}
    assert names_of(listed["alias"]) == ["alias", f"/models/{SERVED}"]


def test_a_model_that_is_listed_later_gets_its_bundle(library: Path) -> None:
    bundles = load_bundles(("default",), (), root=library)
    assert bundles.of({}).bundles == {}
    first = models("other")
    before = bundles.of(first)
    assert bundles.of(dict(first)) is before, "requests do not choose again"
    after = bundles.of({**first, **models(SERVED)})
    assert after.bundles[SERVED].bundle.manifest.name == "learned-chat"
    assert after.bundles["other"] is before.bundles["other"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("learned-caht",), r"--bundle learned-caht: there is no directory .*\(default, hand-written, learned-base, "),
        (("m=",), "expected DIR, MODEL=DIR or MODEL=default"),
        (("=default",), "expected DIR"),
        (("default", "default"), "two bundles for all models"),
        (("m=default", "m=learned-chat"), "two bundles for the model m"),
        (("learned-chat", f"{CHAT_MODEL}=default"), f"two bundles for the model {CHAT_MODEL}"),
    ],
)
def test_wrong_flags_are_explained(library: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        check_bundle_arguments(flags, (), library)
    with pytest.raises(StartupError, match=message):
        load_bundles(flags, (), root=library)


def test_a_path_wins_if_it_is_written_as_one(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "learned-chat").mkdir()
    assert parse_bundle_flag("learned-chat", library).directory == library / "learned-chat"
    assert parse_bundle_flag("m=./learned-chat", library).directory == Path("learned-chat")


# Served


async def answer(reply: Reply, _: Received) -> None:
    await reply.whole(completion("Yes."))


async def test_requests_get_the_bundle_of_their_model(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, logged = load_bundles(("default",), (), root=library), list[dict[str, Any]]()
    monkeypatch.setattr(bundle_log, "log_event", lambda event, **facts: logged.append({"event": event, **facts}))
    kinds = (f"{SERVED}=completion", "other=completion")
    async with (
        scripted_backend(answer, model=SERVED, second_model="other") as backend,
        serving(backend.url, bundles=loaded, kind=kinds) as proxy,
    ):
        for model, name in ((SERVED, "learned-chat"), ("other", GENERAL)):
            code, headers, _ = await proxy.chat(model=model)
            identity = read_bundle(library / name).id[:12]
            assert (code, headers["x-drpo-variant"], headers["x-drpo-bundle"]) == (200, "aligned", identity)
        assert status(proxy.gateway).chosen[SERVED].startswith(f"learned-chat, because it was learned for {CHAT_MODEL}")
        (warning,) = status(proxy.gateway).warnings
        assert warning.startswith(f"The bundle {GENERAL} was written for {BASE_MODEL}. Measure with `drpo-proxy fit`")
        assert "and the same flags whether it helps other." in warning
        seen = bundle_log.log_choices(proxy.gateway, ())
        assert bundle_log.log_choices(proxy.gateway, seen) == seen
    assert [(one["event"], one["model"], one["bundle"]) for one in logged] == [
        ("bundle", SERVED, "learned-chat"),
        ("bundle", "other", GENERAL),
    ]
    assert logged[1]["reason"] == "no bundle of drpo was learned for other"
