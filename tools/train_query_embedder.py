"""Trains the student embedder of `--query-embedder fast` (index/embedders/student.py) on the teacher's vectors.

    python tools/train_query_embedder.py teach texts.txt taught.npz
    python tools/train_query_embedder.py train taught.npz student.npz
    python tools/export_query_embedder.py student.npz

texts.txt has one short, real text per line, such as a description of a package, a question or a title. Texts of
evaluations must not be among them. `teach` needs only this project. `train` needs PyTorch, which may be in another
environment. The loss has two parts. The first is one minus the cosine to the teacher's vector, as for other static
students of sentence encoders (tokenlearn, model2vec). The second is the squared difference of the similarities between
texts of a batch, because retrieval depends on the ranking.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS, PAIRS, WIDTH, INNER, OUT = 30_522, 32_768, 256, 1_024, 384
FIRST_FACTOR, SECOND_FACTOR = 8_191, 131_071  # as in index/embedders/student.py
SPREAD = 10.0
MAX_TOKENS = 64
DENSE = ("out", "norm", "wide", "narrow")
HELD_OUT = 1_000
BATCH = 256
SIMILARITY_WEIGHT = 4.0  # of the second part of the loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("teach", help="embed texts with the teacher")
    one.add_argument("texts", type=Path, help="one to a line")
    one.add_argument("taught", type=Path, help="npz for their tokens and vectors")
    one.add_argument("--processes", type=int, default=2, help="that embed [2]")
    two = steps.add_parser("train", help="train a student on what was taught")
    two.add_argument("taught", type=Path, help="what `teach` wrote")
    two.add_argument("student", type=Path, help="npz for the trained layers")
    two.add_argument("--minutes", type=float, default=60.0, help="that training may take [60]")
    options = parser.parse_args()
    if options.step == "teach":
        teach(options.texts, options.taught, options.processes)
    else:
        train(options.taught, options.student, options.minutes)


def teach(texts: Path, target: Path, processes: int) -> None:
    """Write the tokens of every text, padded with 0, and its vector."""
    lines = list(dict.fromkeys(line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()))
    parts = [lines[begin : begin + 500] for begin in range(0, len(lines), 500)]
    tokens, vectors, begun = [], [], time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, (ids, found) in enumerate(pool.imap(_taught, parts), 1):
            tokens.append(ids)
            vectors.append(found)
            sys.stderr.write(
                f"\r{min(number * 500, len(lines)):,} of {len(lines):,} texts, {time.monotonic() - begun:.0f} s"
            )
    sys.stderr.write("\n")
    np.savez(target, tokens=np.concatenate(tokens), vectors=np.concatenate(vectors))


def _taught(texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    from index.embedders.minilm import OnnxEmbedder

    teacher = OnnxEmbedder()
    ids = np.zeros((len(texts), MAX_TOKENS), np.int32)
    for row, text in enumerate(texts):
        found = teacher.token_ids(text)[:MAX_TOKENS]
        ids[row, : len(found)] = found
    return ids, teacher.embed(texts).astype(np.float16)


def train(taught: Path, target: Path, minutes: float) -> None:
    """Train until the time is over, with a rate that falls to nothing by then; write the layers."""
    import torch

    data = np.load(taught)
    tokens, vectors = torch.from_numpy(data["tokens"].astype(np.int64)), torch.from_numpy(data["vectors"])
    torch.manual_seed(0)
    order = torch.randperm(len(tokens))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    student = _student(torch)
    tables = [student.words.weight, student.pairs.weight]
    dense = [value for layer in DENSE for value in getattr(student, layer).parameters()]
    optimizers = (
        (torch.optim.SparseAdam(tables), 0.01),
        (torch.optim.AdamW(dense, weight_decay=0.01), 0.002),
    )
    begun, step = time.monotonic(), 0
    while (done := (time.monotonic() - begun) / (60 * minutes)) < 1.0:
        rows = rest[torch.randint(len(rest), (BATCH,))]
        wanted = torch.nn.functional.normalize(vectors[rows].float(), dim=1)
        found = student(tokens[rows])
        loss = (1 - (found * wanted).sum(1)).mean() + SIMILARITY_WEIGHT * (
            found @ found.T - wanted @ wanted.T
        ).square().mean()
        loss.backward()
        for optimizer, rate in optimizers:
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 200, 2 * (1 - done))
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 200 == 0:
            with torch.no_grad():
                wanted = torch.nn.functional.normalize(vectors[held].float(), dim=1)
                cosine = (student(tokens[held]) * wanted).sum(1).mean()
            sys.stderr.write(f"\r{done:4.0%}  step {step:,}  loss {loss:.4f}  held-out cosine {cosine:.4f}")
    sys.stderr.write("\n")
    _write(student, target)


def _student(torch: Any) -> Any:
    """What index/embedders/student.py computes, to be trained."""

    class Student(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(WORDS, WIDTH, sparse=True)
            self.pairs = torch.nn.Embedding(PAIRS, WIDTH, sparse=True)
            for table, spread in ((self.words, 0.05), (self.pairs, 0.01)):
                torch.nn.init.normal_(table.weight, std=spread)
            self.out, self.norm = torch.nn.Linear(WIDTH, OUT), torch.nn.LayerNorm(WIDTH)
            self.wide, self.narrow = torch.nn.Linear(WIDTH, INNER), torch.nn.Linear(INNER, OUT)

        def forward(self, tokens: Any) -> Any:
            there = (tokens > 0).float()
            both = there[:, 1:]
            pairs = (tokens[:, :-1] * FIRST_FACTOR + tokens[:, 1:] * SECOND_FACTOR) % PAIRS
            pooled = _mean(self.words(tokens), there) + _mean(self.pairs(pairs), both)
            curved = torch.nn.functional.gelu(self.wide(self.norm(pooled * SPREAD)), approximate="tanh")
            return torch.nn.functional.normalize(self.out(pooled) + self.narrow(curved), dim=1)

    return Student()


def _mean(vectors: Any, there: Any) -> Any:
    return (vectors * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)


def _write(student: Any, target: Path) -> None:
    """Tables in int8 with a scale per row, dense layers as they are: what tools/export_query_embedder.py reads."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in ("words", "pairs"):
        rows = getattr(student, name).weight.detach().numpy()
        scales = np.abs(rows).max(1, keepdims=True) / 127 + 1e-12
        arrays[f"{name}.weight.int8"] = np.round(rows / scales).astype(np.int8)
        arrays[f"{name}.weight.scales"] = scales.astype(np.float32)
    for name in DENSE:
        layer = getattr(student, name)
        arrays[f"{name}.weight"] = layer.weight.detach().numpy().astype(np.float16)
        arrays[f"{name}.bias"] = layer.bias.detach().numpy().astype(np.float16)
    np.savez(target, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
