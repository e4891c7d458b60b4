"""Scores given answers on the base model with PyTorch. tests/bench/likelihood.py runs it inside the vLLM environment.

It reads {"model": folder, "groups": [{"prefix": tokens, "rows": [{"tokens": ..., "answer": ...}]}]} and writes the mean
log-probability of each answer's tokens, in the order of the rows. The prefix of a group is computed once. This script
depends only on tokens.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, DynamicCache

BATCH = 6
DTYPE = torch.float32  # bfloat16 took four to five times as long on CPUs that emulate it


@torch.no_grad()
def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=DTYPE).eval()
    with tqdm(total=sum(len(group["rows"]) for group in request["groups"]), unit=" answers", mininterval=2) as progress:
        scores = [score for group in request["groups"] for score in score_group(model, group, progress)]
    Path(sys.argv[2]).write_text(json.dumps(scores))


def score_group(model: Any, group: dict[str, Any], progress: Any) -> list[float]:
    prefix, rows = group["prefix"], group["rows"]
    known = DynamicCache()
    model.model(torch.tensor([prefix]), past_key_values=known, use_cache=True)
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]["tokens"]) + len(rows[n]["answer"]))
    scores = [0.0] * len(rows)
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        for n, score in zip(some, score_batch(model, known, len(prefix), [rows[n] for n in some]), strict=True):
            scores[n] = score
        progress.update(len(some))
    return scores


def score_batch(model: Any, known: Any, past: int, rows: list[dict[str, list[int]]]) -> Iterator[float]:
    """Score rows together. They are padded at the end, which no earlier token attends to."""
    texts = [row["tokens"] + row["answer"] for row in rows]
    longest = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    cache = DynamicCache()
    for layer, kept in enumerate(known.layers):
        keys, values = (one.expand(len(rows), -1, -1, -1).contiguous() for one in (kept.keys, kept.values))
        cache.update(keys, values, layer)
    positions = torch.arange(past, past + longest)[None].expand(len(rows), -1)
    hidden = model.model(tokens, past_key_values=cache, use_cache=True, position_ids=positions).last_hidden_state
    for n, row in enumerate(rows):
        start, stop = len(row["tokens"]), len(texts[n])
        logits = model.lm_head(hidden[n, start - 1 : stop - 1]).float()
        yield logits.log_softmax(-1).gather(1, tokens[n, start:stop, None]).mean().item()


if __name__ == "__main__":
    main()
