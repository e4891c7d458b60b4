"""Measures how likely GPT-4's answers are for the base model, under each retrieval policy.

    python -m tests.bench.likelihood --policy "9 sets"       compared with `similar_last`, about 15 minutes

The figure is the mean log-probability per token of the beginning of the reference answer, as the continuation of the
prompt of the policy (the optimizer's reward `likelihood`). It covers all rows of references.jsonl that are not sealed.
The base model runs in float32 with PyTorch. Differences to `similar_last` are paired by query, with 95 % bootstrap
intervals.
"""

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.registry import open_embedder
from index.measures.confidence import bootstrap_mean
from index.retrieval.retriever import pinned
from index.types import Example
from tests.bench.policies.bundle_names import bundle_directory
from tests.bench.prefix import Shown, Texts, policies, read_stream
from tests.measurement import read_rows
from tests.vllm.environment import environment
from tests.vllm.models import BASE, model_folder

MAX_ANSWER: Final = 96  # tokens of the reference that are scored
MIN_SHARED: Final = 3  # the fewest rows with the same examples for which the prompt is computed only once
EXACT: Final = "similar_last"
_SCRIPT: Final = Path(__file__).parent / "prefix_cache" / "likelihood_torch.py"


def score(shown: Shown, rows: Sequence[dict[str, Any]], texts: Texts, always: Sequence[Example]) -> list[float]:
    """Return the mean log-probability per token of each row's reference."""
    by_examples: dict[tuple[Example, ...], list[int]] = defaultdict(list)
    for n, examples in enumerate(shown):
        by_examples[tuple(examples)].append(n)
    alone = [n for members in by_examples.values() if len(members) < MIN_SHARED for n in members]
    shared = [(key, members) for key, members in by_examples.items() if len(members) >= MIN_SHARED]
    groups_to_score, order = [], []
    for start, members in [*shared, *([(tuple(always), alone)] if alone else [])]:
        prefix = texts.prefix(start)
        groups_to_score.append(
            {"prefix": prefix, "rows": [_row(texts, shown[n], rows[n], len(prefix)) for n in members]}
        )
        order += members
    scores = _scored(groups_to_score)
    return [value for _, value in sorted(zip(order, scores, strict=True))]


def _row(texts: Texts, examples: Sequence[Example], row: dict[str, Any], past: int) -> dict[str, list[int]]:
    tokens, _ = texts.tokens(examples, row["query"])
    return {"tokens": list(tokens[past:]), "answer": texts.plain(row["reference"])[:MAX_ANSWER]}


def _scored(groups: Sequence[dict[str, Any]]) -> list[float]:
    vllm = environment(print)
    with tempfile.TemporaryDirectory() as name:
        request, scores = Path(name) / "request.json", Path(name) / "scores.json"
        request.write_text(json.dumps({"model": str(model_folder(BASE, vllm, print)), "groups": groups}))
        subprocess.run([vllm / "bin" / "python", _SCRIPT, request, scores], check=True)
        return [float(value) for value in json.loads(scores.read_text())]


def interval(differences: np.ndarray) -> str:
    found = bootstrap_mean(differences.tolist())
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--bundle", type=bundle_directory, default=default_bundle_directory(), help="a bundle other than the default"
    )
    parser.add_argument("--policy", action="append", help="only policies whose name begins so; repeatable")
    options = parser.parse_args()
    embedder = open_embedder(read_manifest(options.bundle).embedder.name)
    bundle = load_bundle(options.bundle, embedder)
    tokenizer = model_folder(BASE, environment(print), print) / "tokenizer.json"
    stream = read_stream(embedder)
    found = {row["query"]: row for row in read_rows("references.jsonl")}
    rows = [found[query] for query in stream.queries]
    texts, shown = Texts(bundle, tokenizer), policies(bundle, stream, tokenizer)
    table = Table("policy", "mean", f"less than {EXACT}: all", "general", "comply", "refuse", title="nats per token")
    exact = np.array(score(shown[EXACT], rows, texts, pinned(bundle)))
    for name, some in shown.items():
        if name == EXACT or any(name.startswith(one) for one in options.policy or [""]):
            scores = exact if name == EXACT else np.array(score(some, rows, texts, pinned(bundle)))
            tags = np.array([row["tag"] for row in rows])
            parts = [np.ones(len(rows), bool), *(tags == tag for tag in ("general", "comply", "refuse"))]
            table.add_row(name, f"{scores.mean():.4f}", *(interval((scores - exact)[part]) for part in parts))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
