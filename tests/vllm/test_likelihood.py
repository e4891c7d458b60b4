"""Tests of the likelihood of a reference answer on real vLLM: it covers the tokens of the reference alone."""

import json
from pathlib import Path

import numpy as np
import openai

from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.rendering import render_raw
from optimizer.core.budget import Budget, Limits, Prices
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.http_client import Client, Endpoint, RetryPolicy
from optimizer.models.paid_replies import PricedClient
from optimizer.models.task_model import Raw, TaskModel
from tests.vllm.models import BASE

_QUERY = "The capital of France is"
_REFERENCES = (" Paris.", " cheese 🧀.", "\nParis, of course — 巴黎")


async def test_likelihood_is_the_mean_over_the_tokens_of_the_reference(
    base_url: str, direct: openai.OpenAI, tmp_path: Path
) -> None:
    likelihoods = []
    async with Client(Endpoint(f"{base_url}/v1", BASE.name), 4, RetryPolicy(reply_timeout=120)) as client:
        with Journal(tmp_path) as journal:
            calls = CachedCalls({"task": PricedClient(client, Prices())}, journal, Budget(Limits()))
            task = TaskModel(calls, "completion", open_embedder(DEFAULT_EMBEDDER))
            for reference in _REFERENCES:
                row = Row(_QUERY, reference=reference)
                likelihoods.append(await task.log_likelihood(Raw({}), row))
                shown = render_raw(row.messages)
                whole, alone = (_prompt_logprobs(direct, text) for text in (shown + reference, shown))
                assert np.isclose(likelihoods[-1], np.mean(whole[len(alone) :]), atol=2e-3)
    assert likelihoods[0] > likelihoods[1]


def _prompt_logprobs(direct: openai.OpenAI, text: str) -> list[float]:
    """Return the log-probability of each token, from vLLM's own field."""
    reply = direct.completions.create(
        model=BASE.name, prompt=text, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
    )
    tokens = json.loads(reply.model_dump_json())["choices"][0]["prompt_logprobs"]
    return [next(iter(token.values()))["logprob"] for token in tokens[1:]]
