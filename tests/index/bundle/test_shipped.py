"""Tests which bundle of drpo a name means, and which one `default` means for a model."""

import json
import re
from pathlib import Path

import pytest

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.bundle.provenance import PROVENANCE
from index.bundle.shipped import GENERAL, SHIPPED, choose_shipped, find_bundle, read_shipped, shipped_names
from index.embedders.registry import LOCAL_EMBEDDERS
from index.errors import BundleError, BundleFormatError, BundleIntegrityError
from tests.index.shipped_library import BASE_MODEL, CHAT_MODEL, Learned, write_library


@pytest.fixture
def library(tmp_path: Path) -> Path:
    learned = Learned("learned-chat"), Learned("learned-base", BASE_MODEL), Learned("worse", "org/worse-1b", -0.01)
    return write_library(tmp_path / "shipped", *learned, Learned("unmeasured", "org/unmeasured-1b", None))


def chosen(root: Path, *names: str) -> tuple[str, str]:
    choice = choose_shipped(names, read_shipped(root))
    return choice.bundle.name, choice.reason


# What ships


@pytest.mark.parametrize("directory", [SHIPPED / name for name in shipped_names()], ids=lambda path: path.name)
def test_every_bundle_of_drpo_is_valid_and_has_its_provenance(directory: Path) -> None:
    bundle = read_bundle(directory)
    (shipped,) = (one for one in read_shipped() if one.name == directory.name)
    assert (bundle.manifest.name, bundle.id) == (directory.name, shipped.provenance.bundle)
    assert bundle.manifest.embedder.name in LOCAL_EMBEDDERS, "it must be served without a permission"
    assert shipped.provenance.licence
    names = {path.name for path in directory.iterdir()}
    extra = names - set(bundle.manifest.files) - {"manifest.json", PROVENANCE}
    assert extra == (set() if shipped.provenance.run is None else {"run.toml", "journal.json"})


@pytest.mark.parametrize("directory", [SHIPPED / name for name in shipped_names()], ids=lambda path: path.name)
def test_pages_that_a_provenance_names_contain_figures(directory: Path) -> None:
    """A figure with its interval, such as 0.86 [0.65, 0.95]."""
    root = Path(__file__).parents[3]
    for page in re.findall(r"docs/[\w/-]+\.md", (directory / PROVENANCE).read_text(encoding="utf-8")):
        assert re.search(r"\d\.\d+ \[-?\d\.\d+, ", (root / page).read_text(encoding="utf-8")), page


def test_the_general_bundle_comes_first() -> None:
    assert shipped_names()[0] == GENERAL
    assert default_bundle_directory() == SHIPPED / GENERAL


# Names


def test_names_mean_bundles_of_drpo(library: Path) -> None:
    assert shipped_names(library) == [GENERAL, "learned-base", "learned-chat", "unmeasured", "worse"]
    assert find_bundle("learned-chat", library) == library / "learned-chat"
    assert find_bundle("default", library) == library / GENERAL


def test_a_name_takes_precedence_over_a_directory(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("learned-chat", "default", "mine"):
        (tmp_path / name).mkdir()
    assert find_bundle("learned-chat", library) == library / "learned-chat"
    assert find_bundle("default", library) == library / GENERAL
    assert find_bundle("./learned-chat", library) == Path("learned-chat")
    assert find_bundle("mine", library) == Path("mine")


def test_an_unknown_name_is_an_error_that_lists_the_names(library: Path) -> None:
    with pytest.raises(
        BundleError, match=r"no directory learned-caht, .*\(default, hand-written, learned-base, learned-chat, .*\)"
    ):
        find_bundle("learned-caht", library)


# The choice for a model


@pytest.mark.parametrize(
    "name", [CHAT_MODEL, "Qwen/Qwen2.5-Coder-1.5B-Instruct", "/models/x/Qwen2.5-Coder-1.5B-Instruct.Q8_0.gguf"]
)
def test_a_learned_bundle_that_is_better_serves_its_model(library: Path, name: str) -> None:
    bundle, reason = chosen(library, name)
    assert bundle == "learned-chat"
    assert reason == (
        f"it was learned for {CHAT_MODEL}, and its composite on validation rows is higher than that of {GENERAL} "
        "(+0.050 [+0.010, +0.090])"
    )


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen/Qwen2.5-Coder-1.5B", "org/lm", "google/gemma-3-270m-it"]
)
def test_another_model_gets_the_general_bundle(library: Path, name: str) -> None:
    assert chosen(library, name) == (GENERAL, f"no bundle of drpo was learned for {name}")


def test_a_learned_bundle_that_is_not_better_is_not_the_default(library: Path) -> None:
    assert chosen(library, "worse-1b") == (
        GENERAL,
        "worse, which was learned for this model, is no better on validation rows",
    )
    bundle, reason = chosen(library, "unmeasured-1b")
    assert (bundle, "was not compared with it" in reason) == (GENERAL, True)


def test_the_name_of_the_weights_counts_too(library: Path) -> None:
    assert chosen(library, "my-alias", "Qwen/Qwen2.5-Coder-1.5B-Instruct")[0] == "learned-chat"
    assert chosen(library, "my-alias", "/models/other")[0] == GENERAL


def test_of_several_learned_bundles_the_best_is_chosen(tmp_path: Path) -> None:
    library = write_library(
        tmp_path / "shipped", Learned("a", lead=0.02), Learned("b", lead=0.06), Learned("c", lead=0.01)
    )
    assert chosen(library, CHAT_MODEL)[0] == "b"


def test_the_general_bundle_serves_its_own_model_if_none_is_better(tmp_path: Path) -> None:
    library = write_library(tmp_path / "shipped")
    assert chosen(library, "gemma-3-270m") == (GENERAL, f"it was written for {BASE_MODEL}")


# Damage


def test_provenance_of_another_bundle_is_refused(library: Path) -> None:
    (library / "worse" / PROVENANCE).write_bytes((library / "learned-chat" / PROVENANCE).read_bytes())
    with pytest.raises(BundleIntegrityError, match=r"worse.provenance\.json: describes another bundle"):
        read_shipped(library)


def test_provenance_is_required_of_a_shipped_bundle(library: Path) -> None:
    (library / "worse" / PROVENANCE).unlink()
    with pytest.raises(BundleError, match=r"provenance\.json: the file is missing"):
        read_shipped(library)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, '"format" must be an integer from 1 to 1'),
        ("licence", "", '"licence" must be a string of one line'),
        ("date", None, '"date" must be'),
        ("notes", "x", '"notes" must be a list'),
        ("run", 3, '"run" must be an object'),
        ("figures", {}, '"figures" must be a list'),
    ],
)
def test_invalid_values_are_named(library: Path, key: str, value: object, message: str) -> None:
    path = library / "worse" / PROVENANCE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), key: value}), encoding="utf-8")
    with pytest.raises(BundleFormatError, match=message):
        read_shipped(library)
