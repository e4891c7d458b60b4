"""Trains the student with PyTorch. The command is `python -m tools.sentence_student train`.

A text's tokens get rows of a table. A small convolution over the first components of neighbouring rows adds units that
depend on the order of words. Rows and units are added over the text, a linear layer maps the sum to the sum of the
teacher's vectors, and the teacher's dense network follows unchanged.

The table begins with the mean of the teacher's vectors of each token over the training texts. For a token that is rare
there, a linear estimate from the teacher's vector of the token alone stands in. Training then lowers the distance
between the vectors of student and teacher, and between their similarities within a batch.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from tools.sentence_student.progress import say
from tools.sentence_student.teacher import DENSE, Floats

SEED: Final = 1
BATCH: Final = 256
HELD_OUT: Final = 2_000
PRIOR: Final = 4.0  # occurrences that the estimate from the token alone is worth
SIMILARITY_WEIGHT, SUM_WEIGHT = 4.0, 0.3


class Taught:
    """What `teach` wrote.

    Attributes:
        tokens: The tokens of all texts, one text after the other.
        features: The teacher's vector of each token, (tokens, 512) float16, in a file.
        starts: The position of the first token of each text, and the number of tokens at last.
    """

    def __init__(self, folder: Path) -> None:
        self.tokens = np.load(folder / "tokens.npy").astype(np.int64)
        lengths = np.load(folder / "lengths.npy")
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.features = np.memmap(folder / "features.bin", np.float16, "r", shape=(len(self.tokens), 512))
        self.alone = np.load(folder / "alone.npy")

    def batch(self, texts: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        """The tokens of these texts, the number of the text of each token, and the teacher's sums."""
        spans = [(self.starts[n], self.starts[n + 1]) for n in texts]
        tokens = np.concatenate([self.tokens[a:b] for a, b in spans])
        owners = np.repeat(np.arange(len(texts)), [b - a for a, b in spans])
        sums = np.stack([self.features[a:b].sum(0, dtype=np.float32) for a, b in spans])
        return torch.from_numpy(tokens), torch.from_numpy(owners), torch.from_numpy(sums)


def first_table(taught: Taught, width: int) -> tuple[Floats, Floats, Floats]:
    """The first table (tokens, width), the layer (width, 512) after it, and its bias (512,)."""
    words, alone = len(taught.alone), taught.alone.astype(np.float32)
    counts = np.bincount(taught.tokens, minlength=words).astype(np.float32)
    means = np.zeros((words, 512), np.float32)
    for begin in range(0, len(taught.tokens), 100_000):
        some = taught.tokens[begin : begin + 100_000]
        order = np.argsort(some, kind="stable")
        ids, firsts = np.unique(some[order], return_index=True)
        features = taught.features[begin : begin + 100_000].astype(np.float32)
        means[ids] += np.add.reduceat(features[order], firsts, axis=0)
    means /= np.maximum(counts, 1)[:, None]
    seen = np.flatnonzero(counts >= 3)
    inputs = np.hstack([alone, np.ones((words, 1), np.float32)])
    shares = np.sqrt(np.minimum(counts[seen], 50))[:, None]
    squares = (inputs[seen] * shares).T @ (inputs[seen] * shares) + 10 * np.eye(513, dtype=np.float32)
    estimate = inputs @ np.linalg.solve(squares, (inputs[seen] * shares).T @ (means[seen] * shares))
    rows = (counts[:, None] * means + PRIOR * estimate) / (counts[:, None] + PRIOR)
    weights = np.sqrt(counts + 1)[:, None]  # the square root lets rare tokens count
    bias = (rows * weights).sum(0) / weights.sum()
    _, vectors = np.linalg.eigh(((rows - bias) * weights).T @ (rows - bias))
    basis = vectors[:, ::-1][:, :width]
    return (rows - bias) @ basis, np.ascontiguousarray(basis.T), bias


class Student(torch.nn.Module):
    def __init__(self, first: tuple[Any, Any, Any], dense: dict[str, Any], seen: int, units: int) -> None:
        super().__init__()
        table, layer, bias = (torch.from_numpy(np.ascontiguousarray(one, np.float32)) for one in first)
        self.table = torch.nn.Embedding.from_pretrained(table, freeze=False, sparse=True)
        self.scale = float(table[:, 0].std())
        self.seen, self.units = seen, units
        if units:
            self.near = torch.nn.Linear(3 * seen, units)
            self.curved = torch.nn.Parameter(torch.zeros(units, 512))
        self.layer, self.bias = torch.nn.Parameter(layer), torch.nn.Parameter(bias)
        self.dense = {name: torch.from_numpy(dense[name]) for name in DENSE}

    def sums(self, tokens: Any, owners: Any, texts: int) -> Any:
        rows = self.table(tokens)
        lengths = torch.bincount(owners, minlength=texts)
        pooled = torch.zeros(texts, rows.shape[1]).index_add(0, owners, rows)
        found = pooled @ self.layer + lengths[:, None] * self.bias
        if self.units:
            head = rows[:, : self.seen] / self.scale
            same = (owners[1:] == owners[:-1]).float()[:, None]
            edge = torch.zeros(1, self.seen)
            before, after = torch.cat([edge, head[:-1] * same]), torch.cat([head[1:] * same, edge])
            near = torch.relu(self.near(torch.cat([before, head, after], 1)))
            found = found + torch.zeros(texts, self.units).index_add(0, owners, near) @ self.curved
        return found

    def finish(self, sums: Any, lengths: Any) -> Any:
        w, means = self.dense, sums * lengths.float().rsqrt()[:, None]
        first = torch.relu(means @ w["p1"] + torch.relu(means @ w["d0"]) @ w["d1"])
        last = torch.tanh(first @ w["p3"] + torch.relu(first @ w["d2"]) @ w["d3"])
        return torch.nn.functional.normalize(last, dim=1)


def train(options: argparse.Namespace) -> None:
    """Train until the time is over, with a rate that falls to nothing by then; write the student."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    with np.load(options.resources / "weights.npz") as arrays:
        dense = {name: arrays[name] for name in DENSE}
    taught, chance, begun = Taught(options.taught), np.random.default_rng(SEED), time.monotonic()
    student = first_student(options, taught, dense)
    say(
        f"first table {time.monotonic() - begun:.0f} s, {len(taught.tokens):,} tokens, {len(taught.starts) - 1:,} texts"
    )
    order = chance.permutation(len(taught.starts) - 1)
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    say(f"held-out cosine {held_out(student, taught, held):.4f}")
    others = [value for name, value in student.named_parameters() if not name.startswith("table")]
    optimizers = (
        (torch.optim.SparseAdam([student.table.weight], betas=(0.9, 0.99)), options.table_rate * student.scale),
        (torch.optim.Adam(others), 0.001),
    )
    begun, step = time.monotonic(), 0
    while (done := (time.monotonic() - begun) / (60 * options.minutes)) < 1.0:
        loss = loss_of(student, *taught.batch(rest[chance.integers(0, len(rest), BATCH)]))
        loss.backward()
        for optimizer, rate in optimizers:
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 200 == 0:
            say(f"{done:4.0%}  step {step:,}  loss {loss:.4f}  held-out cosine {held_out(student, taught, held):.4f}")
    say(f"step {step:,}, held-out cosine {held_out(student, taught, held):.4f}")
    write(student, options.student)


def first_student(options: argparse.Namespace, taught: Taught, dense: dict[str, Any]) -> Student:
    """The student that training begins with: a given one, or a new one."""
    if options.start is None:
        return Student(first_table(taught, options.width), dense, options.seen, options.units)
    with np.load(options.start) as arrays:
        student = Student((arrays["table"], arrays["layer"], arrays["bias"]), dense, options.seen, options.units)
        student.scale = float(arrays["scale"])
        if options.units != len(arrays["curved"]) or 3 * options.seen != len(arrays["near"]):
            return student
        with torch.no_grad():
            student.near.weight.copy_(torch.from_numpy(arrays["near"].T.copy()))
            student.near.bias.copy_(torch.from_numpy(arrays["near_bias"]))
            student.curved.copy_(torch.from_numpy(arrays["curved"]))
    return student


def loss_of(student: Student, tokens: Any, owners: Any, sums: Any) -> Any:
    lengths = torch.bincount(owners, minlength=len(sums))
    wanted = student.finish(sums, lengths)
    made = student.sums(tokens, owners, len(sums))
    found = student.finish(made, lengths)
    distance = ((made - sums).square().mean(1) / lengths).mean()
    similarity = (found @ found.T - wanted @ wanted.T).square().mean()
    return (1 - (found * wanted).sum(1)).mean() + SIMILARITY_WEIGHT * similarity + SUM_WEIGHT * distance


def held_out(student: Student, taught: Taught, texts: NDArray[np.int64]) -> float:
    with torch.no_grad():
        tokens, owners, sums = taught.batch(texts)
        lengths = torch.bincount(owners, minlength=len(sums))
        found = student.finish(student.sums(tokens, owners, len(sums)), lengths)
        return float((found * student.finish(sums, lengths)).sum(1).mean())


def write(student: Student, target: Path) -> None:
    arrays: dict[str, Any] = {
        "table": student.table.weight.detach().numpy().astype(np.float16),
        "scale": np.float32(student.scale),
    }
    arrays |= {name: getattr(student, name).detach().numpy() for name in ("layer", "bias")}
    if student.units:
        near = student.near
        arrays |= {"near": near.weight.detach().numpy().T.copy(), "near_bias": near.bias.detach().numpy()}
        arrays["curved"] = student.curved.detach().numpy()
    np.savez(target, **arrays, **{name: value.numpy() for name, value in student.dense.items()})
