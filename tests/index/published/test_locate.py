import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from index.published.locate import SourceNotFoundError, find_drpo, find_urial
from tests.index.published.texts import ANSWERS, PROMPT, URIAL

MODEL = "meta-llama/Meta-Llama-3-8B"
MAPPING = {MODEL: "./data/llama3-8b/output.pkl", "meta-llama/Llama-2-7b-hf": "./data/llama 2-7b/output.pkl"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of DRPO's repository, with the prompts as texts too."""
    data = tmp_path / "clone" / "data"
    for name in ("llama3-8b", "llama2-7b", "mistral-7b"):
        (data / name).mkdir(parents=True)
        (data / name / "output.txt").write_text(f"{PROMPT} {name}", "utf-8")
        (data / name / "output.pkl").write_bytes(b"\x80\x04.")
    (data / "model_mapping.json").write_text(json.dumps(MAPPING), "utf-8")
    (data / "ICL_examples.json").write_text(json.dumps(ANSWERS), "utf-8")
    (data / "seed.json").write_text("{}", "utf-8")
    return tmp_path / "clone"


@pytest.mark.parametrize("folder", [".", "data"])
@pytest.mark.parametrize(("model", "name"), [(MODEL, "llama3-8b"), ("meta-llama/Llama-2-7b-hf", "llama2-7b")])
def test_model_chooses_the_prompt_of_a_clone(clone: Path, folder: str, model: str, name: str) -> None:
    prompt, examples = find_drpo(clone / folder, model, None)
    assert (prompt.parent.name, prompt.name, examples.name) == (name, "output.txt", "ICL_examples.json")


def test_flat_folder_has_prompts_by_name(clone: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("llama3-8b", "llama2-7b"):
        (flat / f"prompt_{name}.txt").write_text(PROMPT, "utf-8")
    (flat / "model_mapping.json").write_text(json.dumps(MAPPING), "utf-8")
    (flat / "icl_examples.json").write_text(json.dumps(ANSWERS), "utf-8")
    for model, name in ((MODEL, "llama3-8b"), ("meta-llama/Llama-2-7b-hf", "llama2-7b")):
        assert find_drpo(flat, model, None) == (flat / f"prompt_{name}.txt", flat / "icl_examples.json")


def test_single_prompt_of_a_folder_is_for_any_model(tmp_path: Path) -> None:
    (tmp_path / "ICL_optimization").mkdir()
    (tmp_path / "output.txt").write_text(PROMPT, "utf-8")
    (tmp_path / "ICL_optimization" / "out_16_5.json").write_text("{}", "utf-8")
    prompt, examples = find_drpo(tmp_path, "my/model", None)
    assert (prompt.name, examples.name) == ("output.txt", "out_16_5.json")


@pytest.mark.parametrize("given", [None, "mine.json"])
def test_file_is_the_prompt_and_examples_are_found_above_it_or_given(clone: Path, given: str | None) -> None:
    file = clone / "data" / "mistral-7b" / "output.txt"
    named = None if given is None else clone / given
    assert find_drpo(file, "my/model", named) == (file, named or clone / "data" / "ICL_examples.json")


def test_pickle_is_refused_and_the_printed_command_exports_its_prompt(clone: Path, tmp_path: Path) -> None:
    folder = clone / "data" / "llama3-8b"
    (folder / "output.txt").unlink()
    made = (
        "import pickle, sys, types\n"
        "state = types.SimpleNamespace(system_prompt='Be good. é')\n"
        "node = types.SimpleNamespace(terminal_node=types.SimpleNamespace(state=[None, state]))\n"
        f"pickle.dump(node if sys.argv[1] == 'node' else 'Be good. é', open({str(folder / 'output.pkl')!r}, 'wb'))\n"
    )
    for path, kind in ((clone, "node"), (folder / "output.pkl", "text")):
        subprocess.run([sys.executable, "-c", made, kind], check=True)
        with pytest.raises(SourceNotFoundError, match="reading a pickle can run code") as caught:
            find_drpo(path, MODEL, None)
        line = str(caught.value).splitlines()[-1].strip()
        assert line.startswith("python3 -c ")
        subprocess.run(line.replace("python3", shlex.quote(sys.executable), 1), shell=True, check=True, cwd=tmp_path)
        assert json.loads((folder / "output.json").read_text("utf-8")) == {"prompt": "Be good. é"}
        assert find_drpo(clone, MODEL, None)[0] == folder / "output.json"
        (folder / "output.json").unlink()


@pytest.mark.parametrize(
    ("path", "model", "reason"),
    [
        ("nowhere", MODEL, "nowhere: there is no such file or folder"),
        (".", "my/model", "has no prompt for the model my/model.*output.txt.*Models in .*Meta-Llama-3-8B"),
        ("data/ICL_examples.json", MODEL, "has the examples. Name the file of the prompt"),
        ("empty", MODEL, "has no prompt of DRPO. Name the file"),
        ("alone", MODEL, "no ICL_examples.json was found there. Name the examples with --examples"),
        ("gone", MODEL, "names ./data/llama3-8b/output.pkl for the model .*neither this file nor an output.txt"),
        ("broken", MODEL, "model_mapping.json: is not valid JSON"),
    ],
)
def test_missing_file_is_named_with_what_to_do(clone: Path, path: str, model: str, reason: str) -> None:
    (clone / "empty").mkdir()
    for name, text in (("alone/output.txt", PROMPT), ("gone/model_mapping.json", json.dumps(MAPPING))):
        (clone / name).parent.mkdir()
        (clone / name).write_text(text, "utf-8")
    (clone / "broken").mkdir()
    (clone / "broken" / "model_mapping.json").write_text("{", "utf-8")
    with pytest.raises(SourceNotFoundError) as caught:
        find_drpo(clone / path, model, None)
    assert re.search(reason, str(caught.value), re.DOTALL), caught.value


def test_text_of_urial_is_a_file_or_the_only_one_of_a_folder(tmp_path: Path) -> None:
    texts = tmp_path / "urial_prompts"
    texts.mkdir()
    (texts / "one.txt").write_text(URIAL, "utf-8")
    (tmp_path / "requirements.txt").write_text("vllm\n", "utf-8")
    for path in (tmp_path, texts, texts / "one.txt"):
        assert find_urial(path) == texts / "one.txt"
    (texts / "two.txt").write_text(URIAL, "utf-8")
    with pytest.raises(
        SourceNotFoundError, match=r"has 2 texts of URIAL. Name one of them as PATH\n.*one.txt\n.*two.txt"
    ):
        find_urial(tmp_path)
    for path, reason in ((tmp_path / "none", "no such file or folder"), (tmp_path.parent, "has no text of URIAL")):
        with pytest.raises(SourceNotFoundError, match=reason):
            find_urial(path)


@pytest.mark.parametrize("entry", ["../secret.txt", "./data/../../secret.txt", "a/b/../secret.txt"])
def test_mapping_names_no_file_outside_its_folder(clone: Path, entry: str) -> None:
    (clone / "secret.txt").write_text("secret", "utf-8")
    (clone / "data" / "model_mapping.json").write_text(json.dumps({MODEL: entry}), "utf-8")
    with pytest.raises(SourceNotFoundError, match="neither this file"):
        find_drpo(clone, MODEL, None)
