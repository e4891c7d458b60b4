"""Measures the time of prefill on a GPU by number of uncached tokens; it prints JSON lines that are on no page.

It needs one NVIDIA GPU, torch and transformers. drpo needs none of them, so a person runs this script in an environment
that has them: `python tests/bench/gpu/prefill.py`. The models have the shape of large models and random weights,
because the time depends only on the shape. This script does not depend on drpo. It measures the forward pass of
transformers, not of vLLM, so its times only serve to compare numbers of tokens.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

# Llama 3's published shapes (arXiv 2407.21783, table 3).
SHAPES = {
    "8B": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336},
    "70B, 16 of 80 layers": {
        "hidden_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 64,
        "intermediate_size": 28672,
    },
}
QUERY = 40  # tokens of the client's text, which are never cached
CACHED_AND_NEW = ((0, 0), (0, 500), (0, 1200), (0, 2000), (480, 32), (480, 64), (1152, 32), (1152, 64), (1920, 64))


@contextmanager
def model_of(shape: dict[str, int]) -> Iterator[LlamaForCausalLM]:
    """Yield a model of this shape on the GPU, in bfloat16, with small random weights."""
    config = LlamaConfig(**shape, num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"), torch.no_grad():
            yield LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
        torch.cuda.empty_cache()


@torch.inference_mode()
def prefill_seconds(model: LlamaForCausalLM, cached: int, new: int, batch: int, repeats: int) -> list[float]:
    """Return the seconds of each forward pass over `new` tokens per sequence after `cached` tokens."""
    cache = DynamicCache()
    if cached:
        model(random_tokens(batch, cached), past_key_values=cache, use_cache=True, logits_to_keep=1)
    times = []
    for _ in range(repeats + 3):
        tokens = random_tokens(batch, new)
        torch.cuda.synchronize()
        started = time.perf_counter()
        model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        cache.crop(-new)
    return times[3:]


def random_tokens(batch: int, count: int) -> torch.Tensor:
    return torch.randint(0, 128000, (batch, count), device="cuda")


def main() -> None:
    """Print a line of JSON for each shape, batch and pair of token counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    card = torch.cuda.get_device_name()
    for name, shape in SHAPES.items():
        with model_of(shape) as model:
            for batch in (1, 8):
                for cached, injected in CACHED_AND_NEW:
                    times = prefill_seconds(model, cached, injected + QUERY, batch, repeats)
                    row = {"card": card, "shape": name, "batch": batch, "cached": cached, "injected_new": injected}
                    row |= {"ms": 1e3 * statistics.median(times), "least": 1e3 * min(times), "most": 1e3 * max(times)}
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
