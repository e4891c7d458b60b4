"""The folder of an improvement: where each step leaves its result, and to which store and bundle the folder belongs.

A step whose result exists is not repeated. Every result is complete or absent, so that the same command continues after
an interruption at any moment.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from index.atomic_file import replace_file
from optimizer.core.errors import DataError
from optimizer.harvest.files import ROWS, SUMMARY
from optimizer.stages.run import RUN_FILE

BEGIN: Final = "improve.json"
FOLDER_MODE: Final = 0o700
_IDENTITY: Final = ("store", "bundle", "feedback")


@dataclass(frozen=True, slots=True)
class ImproveFolder:
    """The folder of one improvement.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def harvest(self) -> Path:
        """The folder of the harvest."""
        return self.path / "harvest"

    @property
    def metric(self) -> Path:
        """The file with the mean and the variance of the metric."""
        return self.path / "metric.json"

    @property
    def inputs(self) -> Path:
        """The folder with rows, examples, preferences and run.toml of the run. It is complete if it holds run.toml."""
        return self.path / "inputs"

    @property
    def run(self) -> Path:
        """The directory of the run."""
        return self.path / "run"

    @property
    def bundle(self) -> Path:
        """The new bundle."""
        return self.path / "bundle"

    @property
    def experiment(self) -> Path:
        """The experiment file."""
        return self.path / "experiment.toml"

    @property
    def summary(self) -> Path:
        """The HTML summary."""
        return self.path / "summary.html"

    @property
    def read(self) -> Mapping[str, int]:
        """What the harvest read, by the names of the fields of `ReadCounts`."""
        found: Mapping[str, int] = orjson.loads((self.harvest / SUMMARY).read_bytes())["read"]
        return found

    @property
    def task_model(self) -> str:
        """The task model in run.toml of the run; an empty text if the inputs are not complete."""
        try:
            found = tomllib.loads((self.inputs / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            return ""
        return str(found["models"]["task"]["model"])

    @property
    def row_counts(self) -> Mapping[str, int]:
        """The number of rows of each part."""
        lines = (self.inputs / ROWS).read_bytes().splitlines()
        return Counter(orjson.loads(line)["split"] for line in lines)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Create the folder, or check that it belongs to the same improvement.

        Args:
            identity: What the improvement is made from: `store`, `bundle` and `feedback`.

        Raises:
            DataError: The folder holds other files or another improvement, or cannot be written.
        """
        known = self._identity()
        if known is None:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise DataError(f"{self.path} contains other files. Name a new folder with --out.")
            write_file(self.path / BEGIN, orjson.dumps(identity, option=orjson.OPT_INDENT_2))
            return
        for key in _IDENTITY:
            if known.get(key) != identity[key]:
                raise DataError(
                    f"{self.path} belongs to another {key}. It was begun with {_text(known.get(key))}, and this "
                    f"command names {_text(identity[key])}. Name a new folder with --out, or give the earlier flags."
                )

    def _identity(self) -> Mapping[str, Any] | None:
        path = self.path / BEGIN
        try:
            found = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError):
            raise DataError(f"{path} cannot be read. Name a new folder with --out.") from None
        return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, so that only its owner can read it. Raises DataError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        replace_file(path, [content])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a DataError that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
