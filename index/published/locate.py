"""Finds the files of a published prompt on the disk: in a clone of the authors' repository, or as single files.

DRPO's repository has the prompts in `data/NAME/output.pkl`, and `data/model_mapping.json`, which names one of them for
each model. drpo reads no pickle, so the user exports the prompt as a text: as `output.txt` or `output.json` beside the
pickle, or as `prompt_NAME.txt` in `data`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from index.errors import BundleError, UsageError
from index.published.source_files import PICKLE_SUFFIXES, pickle_reason, read_json

_URIAL_FOLDERS: Final = (".", "urial_prompts")
_DRPO_FOLDERS: Final = (".", "data", "examples/DRPO/data")
_MAPPING: Final = "model_mapping.json"
_EXAMPLES: Final = ("icl_examples.json", "out_16_5.json")
_TEXT_SUFFIXES: Final = (".txt", ".json")
_MAX_LISTED: Final = 20


class SourceNotFoundError(UsageError):
    """A path does not lead to the files of a published prompt, or leads to several."""


def find_urial(path: Path) -> Path:
    """Return the prompt text of URIAL that a path names: a file, or a folder with one text.

    Raises:
        SourceNotFoundError: There is no such text, or there are several.
    """
    if path.is_file():
        return path
    _check_folder(path)
    texts = [file for folder in _URIAL_FOLDERS for file in sorted((path / folder).glob("*.txt")) if _has_query(file)]
    if len(texts) == 1:
        return texts[0]
    if not texts:
        raise SourceNotFoundError(f'{path}: has no text of URIAL (a .txt file with a line "# Query:"). Name the file')
    raise SourceNotFoundError(f"{path}: has {len(texts)} texts of URIAL. Name one of them as PATH\n{_listed(texts)}")


def find_drpo(path: Path, model: str, examples: Path | None) -> tuple[Path, Path]:
    """Return the file of the prompt and the file of the examples of DRPO.

    Args:
        path: The file of the prompt, or a folder: a clone of the repository, or its folder `data`.
        model: The model, which chooses the prompt in a folder.
        examples: The file of the examples. None means that it is searched beside the prompt.

    Raises:
        SourceNotFoundError: A file is missing, or there are several prompts and none of them is for the model.
    """
    if path.is_file():
        prompt, folders = path, [path.parent, *path.parent.parents[:1]]
        if path.name.lower() in _EXAMPLES and examples is None:
            raise SourceNotFoundError(f"{path}: has the examples. Name the file of the prompt, or the folder, as PATH")
    else:
        _check_folder(path)
        folders = [path / folder for folder in _DRPO_FOLDERS if (path / folder).is_dir()]
        prompt = _find_prompt(path, folders, model)
    if prompt.suffix.lower() in PICKLE_SUFFIXES:
        raise SourceNotFoundError(pickle_reason(str(prompt)))
    return prompt, examples or _find_examples(path, folders)


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise SourceNotFoundError(f"{path}: there is no such file or folder. Name a published file, or its folder")
    if not path.is_dir():
        raise SourceNotFoundError(f"{path}: is neither a file nor a folder. Name a published file, or its folder")


def _find_examples(path: Path, folders: Iterable[Path]) -> Path:
    for folder in folders:
        files = [file for place in (folder, folder / "ICL_optimization") for file in _files(place)]
        for name in _EXAMPLES:
            if found := next((file for file in files if file.name.lower() == name), None):
                return found
    raise SourceNotFoundError(f"{path}: no ICL_examples.json was found there. Name the examples with --examples FILE")


def _find_prompt(path: Path, folders: Sequence[Path], model: str) -> Path:
    prompts = [file for folder in folders for file in _prompts(folder)]
    mapping = next((folder / _MAPPING for folder in folders if (folder / _MAPPING).is_file()), None)
    mapped = {} if mapping is None else _read_mapping(mapping)
    if model in mapped:
        return _mapped_prompt(mapping or path, mapped[model], prompts, model)
    if len(prompts) == 1:
        return prompts[0]
    if not prompts and not mapped:
        raise SourceNotFoundError(
            f"{path}: has no prompt of DRPO. Name the file as PATH, such as data/llama3-8b/output.txt"
        )
    listed = _listed(prompts) + (f"\nModels in {mapping}: {', '.join(mapped)}" if mapped else "")
    raise SourceNotFoundError(
        f"{path}: has no prompt for the model {model}. Name the prompt of another model as PATH\n{listed}"
    )


def _mapped_prompt(mapping: Path, entry: str, prompts: Iterable[Path], model: str) -> Path:
    """Return the file with the text of the prompt that the mapping names, or its pickle if there is no such file."""
    folder, file_name = PurePosixPath(entry).parent.name, PurePosixPath(entry).name
    name = _name(folder)
    found = [file for file in prompts if _name(file.parent.name) == name or _name(file.stem) == f"prompt_{name}"]
    if found:
        return found[0]
    pickled = mapping.parent / folder / file_name
    if folder != ".." and pickled.is_file():  # a mapping must not name a file outside its folder
        return pickled
    raise SourceNotFoundError(
        f"{mapping}: names {entry} for the model {model}, and neither this file nor an output.txt beside it exists"
    )


def _read_mapping(path: Path) -> dict[str, str]:
    try:
        value = read_json(path.read_bytes(), str(path))
    except OSError as error:
        raise SourceNotFoundError(f"{path}: cannot be read: {error.strerror}") from None
    except BundleError as error:
        raise SourceNotFoundError(str(error)) from None
    pairs = value.items() if isinstance(value, dict) else ()
    return {str(model): entry for model, entry in pairs if isinstance(entry, str)}


def _prompts(folder: Path) -> Iterator[Path]:
    for file in _files(folder):
        if file.suffix in _TEXT_SUFFIXES and (file.stem == "output" or file.stem.startswith("prompt_")):
            yield file
    for inner in sorted(one for one in folder.iterdir() if one.is_dir()):
        yield from (file for file in _files(inner) if file.stem == "output" and file.suffix in _TEXT_SUFFIXES)


def _files(folder: Path) -> Sequence[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []


def _name(text: str) -> str:
    """Return the name of a model's folder without spaces: one of the published names has a space too many."""
    return text.replace(" ", "").lower()


def _has_query(file: Path) -> bool:
    try:
        return b"\n# Query:" in b"\n" + file.read_bytes()
    except OSError:
        return False


def _listed(files: Sequence[Path]) -> str:
    more = f"\n  and {len(files) - _MAX_LISTED:,} more" if len(files) > _MAX_LISTED else ""
    return "\n".join(f"  {file}" for file in files[:_MAX_LISTED]) + more
