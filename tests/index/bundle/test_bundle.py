import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.bundle.bundle import default_bundle_directory, load_bundle, read_bundle, read_manifest, write_bundle
from index.errors import BundleError, BundleFormatError, BundleIntegrityError, EmbedderMismatchError
from index.types import Vectors
from tests.index.breaking import load, refused, replace_file
from tests.index.words import DIMENSION, EXAMPLES, PROMPT, WordEmbedder, bundle_input, write_test_bundle

FILES = ["manifest.json", "prompt.txt", "examples.jsonl", "vectors.npy"]
CONTENT_FILES = FILES[1:]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_test_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def npy(array: object) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


# The written files


def test_loaded_bundle_equals_the_written_one(tmp_path: Path) -> None:
    made = write_test_bundle(tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle", WordEmbedder())
    assert (loaded.id, loaded.manifest, loaded.prompt, loaded.examples) == (made.id, made.manifest, PROMPT, EXAMPLES)
    assert np.array_equal(loaded.vectors, WordEmbedder().embed([example.query for example in EXAMPLES]))
    assert read_manifest(tmp_path / "bundle") == made.manifest
    assert not loaded.vectors.flags.writeable


def test_manifest_is_canonical_and_its_hash_is_the_bundle_id(directory: Path) -> None:
    data = (directory / "manifest.json").read_bytes()
    canonical = json.dumps(json.loads(data), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert data.decode() == canonical
    assert read_bundle(directory).id == hashlib.sha256(data).hexdigest()


def test_same_input_gives_the_same_bundle_id(tmp_path: Path) -> None:
    assert write_test_bundle(tmp_path / "one").id == write_test_bundle(tmp_path / "two").id


def test_manifest_has_hash_and_size_of_each_file(directory: Path) -> None:
    files = json.loads((directory / "manifest.json").read_bytes())["files"]
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    for name in CONTENT_FILES:
        data = (directory / name).read_bytes()
        assert files[name] == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


# Broken files


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    refused(directory, BundleIntegrityError, f"{directory / name}: the file is missing", "build the bundle again")


@pytest.mark.parametrize("name", CONTENT_FILES)
def test_truncated_file_is_named(directory: Path, name: str) -> None:
    data = (directory / name).read_bytes()
    (directory / name).write_bytes(data[:-1])
    refused(directory, BundleIntegrityError, f"{directory / name}: has {len(data) - 1:,} bytes", "manifest.json says")


@pytest.mark.parametrize("name", CONTENT_FILES)
def test_flipped_byte_is_found_at_any_position(directory: Path, name: str) -> None:
    data = (directory / name).read_bytes()
    for position in (0, len(data) // 2, len(data) - 1):
        flipped = bytes([*data[:position], data[position] ^ 1, *data[position + 1 :]])
        (directory / name).write_bytes(flipped)
        refused(directory, BundleIntegrityError, f"{directory / name}: its SHA-256 differs from the one")


def test_missing_directory_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none", BundleError, f"{tmp_path / 'none'}: there is no such directory")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", BundleError, "there is no such directory")


@pytest.mark.parametrize("name", FILES)
def test_symbolic_link_is_not_followed(directory: Path, name: str) -> None:
    (directory / name).rename(directory.parent / name)
    (directory / name).symlink_to(directory.parent / name)
    refused(directory, BundleIntegrityError, f"{directory / name}: ", "symbolic link")


@pytest.mark.parametrize("name", FILES)
def test_pipe_or_directory_is_refused_at_once(directory: Path, name: str) -> None:
    (directory / name).unlink()
    os.mkfifo(directory / name)
    refused(directory, BundleIntegrityError, f"{directory / name}: is not a regular file")
    (directory / name).unlink()
    (directory / name).mkdir()
    refused(directory, BundleIntegrityError, f"{directory / name}: ")


# Vectors

GOOD = WordEmbedder().embed([example.query for example in EXAMPLES])


def with_row(position: int, row: Vectors | float) -> bytes:
    vectors = GOOD.copy()
    vectors[position] = row
    return npy(vectors)


@pytest.mark.parametrize(
    ("data", "kind", "part"),
    [
        (npy(GOOD[:-1]), BundleIntegrityError, f"has shape (4, {DIMENSION})"),
        (npy(GOOD[:, 1:]), BundleIntegrityError, f"has shape (5, {DIMENSION - 1})"),
        (npy(GOOD.astype(np.float64)), BundleFormatError, "is not one array of float32"),
        (npy(GOOD.astype(">f4")), BundleFormatError, "is not one array of float32"),
        (npy(np.array([{"a": 1}], dtype=object)), BundleFormatError, "is not one array of float32"),
        (with_row(1, np.nan), BundleIntegrityError, "not finite"),
        (with_row(1, np.inf), BundleIntegrityError, "not finite"),
        (with_row(3, GOOD[3] * 1.01), BundleIntegrityError, "row 4 has the norm 1.0100"),
        (with_row(3, 0), BundleIntegrityError, "row 4 has the norm 0.0000"),
        (b"", BundleFormatError, "is not a NumPy array file"),
        (b"\x93NUMPY\x01\x00\x0e\x00{'descr': '<f4'", BundleFormatError, "is not a NumPy array file"),
        (npy(GOOD)[:-1], BundleFormatError, "is not a NumPy array file"),
    ],
)
def test_vectors_that_are_not_one_unit_row_per_line_are_refused(
    directory: Path, data: bytes, kind: type[BundleError], part: str
) -> None:
    replace_file(directory, "vectors.npy", data)
    refused(directory, kind, f"{directory / 'vectors.npy'}: ", part)


def test_archive_of_arrays_is_refused(directory: Path) -> None:
    buffer = BytesIO()
    np.savez(buffer, vectors=GOOD)
    replace_file(directory, "vectors.npy", buffer.getvalue())
    refused(directory, BundleFormatError, "is not one array of float32")


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(max_size=40), st.integers(0, 90))
def test_any_malformed_vectors_header_is_a_bundle_error(noise: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as parent:
        target = Path(parent) / "bundle"
        write_test_bundle(target)
        data = (target / "vectors.npy").read_bytes()
        replace_file(target, "vectors.npy", data[:at] + noise + data[at + len(noise) + 1 :])
        with pytest.raises(BundleError, match=r"vectors\.npy: "):
            load(target)


# The embedder


def test_another_embedder_is_refused_by_name(directory: Path) -> None:
    with pytest.raises(
        EmbedderMismatchError, match=r"vectors\.npy: was made by .*revision words.*revision other.*cosine"
    ):
        load_bundle(directory, WordEmbedder("other"))


def test_embedder_of_another_dimension_is_refused(directory: Path) -> None:
    with pytest.raises(EmbedderMismatchError, match=f"gives 8 dimensions, not {DIMENSION}"):
        load_bundle(directory, WordEmbedder(dimension=8))


@pytest.mark.parametrize("position", [0, 2, 4])
def test_wrong_vector_is_found_at_the_first_middle_and_last_position(directory: Path, position: int) -> None:
    replace_file(directory, "vectors.npy", with_row(position, GOOD[(position + 1) % 5]))
    refused(directory, EmbedderMismatchError, f"gives another vector for {EXAMPLES[position].id}")


def test_bundle_can_be_read_without_an_embedder(directory: Path) -> None:
    assert read_bundle(directory).examples == EXAMPLES


# Atomic writing


def test_existing_path_is_never_overwritten(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    (directory.parent / "empty").mkdir()
    (directory.parent / "link").symlink_to("nowhere")
    for place in (directory, directory.parent / "empty", directory.parent / "link"):
        with pytest.raises(BundleError, match="exists already"):
            write_test_bundle(place)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    with pytest.raises(BundleError, match=r"there is no such directory\. Create it first"):
        write_test_bundle(directory.parent / "none" / "bundle")


class ChangesItsMind(WordEmbedder):
    """Returns other vectors for a batch than for single texts, like a model with wrong padding or quantisation."""

    def embed(self, texts: Any) -> Any:
        return WordEmbedder("alone" if len(texts) == 1 else "batch").embed(texts)


def test_embedder_that_depends_on_the_batch_is_refused_when_writing(tmp_path: Path) -> None:
    with pytest.raises(EmbedderMismatchError, match="another vector"):
        write_bundle(tmp_path / "bundle", bundle_input(), ChangesItsMind())
    assert list(tmp_path.iterdir()) == []


WRITE_IN_CHILD = """
import os, resource, signal, sys
from pathlib import Path
from tests.index.words import write_test_bundle
{prepare}
try:
    write_test_bundle(Path(sys.argv[1]) / "bundle")
except Exception as error:
    print(type(error).__name__, error)
"""


def write_in_child(parent: Path, prepare: str) -> subprocess.CompletedProcess[str]:
    code = WRITE_IN_CHILD.format(prepare=prepare)
    root = Path(__file__).parents[3]
    return subprocess.run([sys.executable, "-c", code, parent], cwd=root, capture_output=True, text=True, check=False)


def test_full_disk_leaves_no_files(tmp_path: Path) -> None:
    # A limit on the file size interrupts a write like a full disk.
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"
    done = write_in_child(tmp_path, limit)
    assert done.stdout.startswith(f"BundleError {tmp_path / 'bundle'}: cannot be written (File too large)"), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("files_written", [0, 1, 2, 3])
def test_kill_at_any_file_leaves_no_bundle(tmp_path: Path, files_written: int) -> None:
    kill = (
        f"left = iter(range({files_written})); sync = os.fsync\n"
        "os.fsync = lambda fd: sync(fd) if next(left, None) is not None else os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert write_in_child(tmp_path, kill).returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    assert all(path.name.startswith(".bundle.") for path in tmp_path.iterdir())
    write_test_bundle(tmp_path / "bundle")
    load(tmp_path / "bundle")


def test_files_and_directories_are_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename = os.fsync, Path.rename

    def watched_sync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def watched_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    write_test_bundle(tmp_path / "bundle")
    assert sorted(events[:4]) == sorted(FILES)
    assert events[4].startswith(".bundle.")
    assert events[5:] == ["rename", tmp_path.name]


def test_default_bundle_is_in_the_package() -> None:
    assert default_bundle_directory().parts[-3:] == ("index", "shipped", "hand-written")
