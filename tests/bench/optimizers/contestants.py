"""Runs one optimizer in a process of its own, and writes the bundle that it found.

    python -m tests.bench.optimizers.contestants NAME RUN.TOML FOLDER --seed 0 --answers 200

GEPA and CAPO need an environment with their packages. The relay of meter.py refuses calls above the limits; each
optimizer then returns what it would return if it were stopped. A prompt that no bundle can hold is a failed proposal:
it gets the score 0 and is counted. An optimizer whose result is such a prompt has found nothing. A run fails if its
optimizer ends with an error that is not a refused call.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from index.bundle.bundle import write_bundle
from optimizer.core.config import read_config
from optimizer.core.errors import RefusedRequestError
from optimizer.core.journal import Journal
from optimizer.prompt_scorer import PromptScorer, open_prompt_scorer
from optimizer.stages.candidate_gate import bundle_input
from optimizer.stages.prompt_edits import edits
from optimizer.stages.prompt_stage import run_prompt_stage
from optimizer.stages.run_context import BestCandidate, first_candidate, open_run_context, starting_candidate
from tests.bench.embedders import say
from tests.bench.optimizers.meter import ANSWERS_SPENT, REPLIES_SPENT

ADAPTERS: Final = Path(__file__).parents[3] / "examples" / "optimizers"
BUNDLE: Final = "bundle"
FAILED: Final = "failed.json"
"""The file with the reasons for failed proposals."""
_MAX_WORDS: Final = 250
_MAX_EDITS: Final = 4
_TASK: Final = (
    "Answer a person's query well: completely, without repetition, and with a refusal only if the query asks for "
    "something harmful."
)
_POPULATION: Final = 4  # recommended: 10
_BLOCK: Final = 10  # recommended: 30; a block for 10 prompts and 4 new ones would cost 420 answers


def raced(run_file: Path, folder: Path, _seed: int, _answers: int) -> None:
    """Run the algorithm of [search], without the other stages of a run."""
    asyncio.run(_raced(run_file, folder))


async def _raced(run_file: Path, folder: Path) -> None:
    config = read_config(run_file)
    with Journal(folder, lambda _event: None) as journal:
        async with open_run_context(config, journal, say) as context:
            start = await asyncio.to_thread(starting_candidate, config, context.embedder)
            best = BestCandidate(first_candidate(config.bundle, start))
            with until_spent():
                await run_prompt_stage(context, best)
            write_bundle(folder / BUNDLE, bundle_input(config, best.candidate), context.embedder)


def random_edits(run_file: Path, folder: Path, seed: int, answers: int) -> None:
    """Find the best of several prompts, which random edits make of the start. All are scored on the same rows."""
    count = 20 if answers <= 200 else 30  # answers to each prompt: 10 prompts for 200 answers, 20 for 600
    chance = random.Random(seed)
    with open_prompt_scorer(run_file, folder, say) as scorer:
        prompts = {scorer.start.prompt: 0.0}
        while len(prompts) < answers // count:
            prompts[_edited(scorer.start.prompt, chance)] = 0.0
        for prompt in prompts:
            scored = scorer.score([(prompt, row) for row in scorer.rows[:count]])
            prompts[prompt] = sum(one.score for one in scored)
        write_found(scorer, max(prompts, key=lambda prompt: prompts[prompt]), folder)


def _edited(prompt: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, _MAX_EDITS)):
        prompt = next((one.prompt for one in edits(prompt, 1, str(chance.random()), _MAX_WORDS)), prompt)
    return prompt


class _BestOfGepa:
    """Remembers the best prompt of GEPA, which returns nothing if a call is refused."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    def on_valset_evaluated(self, event: Mapping[str, Any]) -> None:
        if event["is_best_program"]:
            (self.prompt,) = event["candidate"].values()


def gepa(run_file: Path, folder: Path, seed: int, answers: int) -> None:
    """Run GEPA with its own settings. It reflects on half of the rows, three at a time, and chooses by the others."""
    from gepa import optimize
    from gepa_adapter import PROMPT, Adapter

    class Quiet:
        def log(self, message: str) -> None:
            pass

    with open_prompt_scorer(run_file, folder, say) as scorer:
        best = _BestOfGepa(scorer.start.prompt)
        rows = sorted(scorer.rows, key=lambda row: row.kind)
        with until_spent():
            optimize(
                {PROMPT: best.prompt},
                rows[::2],
                rows[1::2],
                Adapter(scorer),
                reflection_lm=lambda text: scorer.write([text])[0],
                max_metric_calls=10 * answers,  # no limit: only the relay limits the calls
                seed=seed,
                callbacks=[best],
                logger=Quiet(),
            )
        write_found(scorer, best.prompt, folder)


def capo(run_file: Path, folder: Path, seed: int, _answers: int) -> None:
    """Run CAPO with its own settings, except that population and blocks are smaller."""
    import numpy as np
    from capo_adapter import END, Writer
    from capo_adapter import capo as make
    from promptolution.utils.prompt_creation import create_prompt_variation

    random.seed(seed)
    np.random.seed(seed)  # pandas draws the examples with it
    with open_prompt_scorer(run_file, folder, say) as scorer:
        writer = Writer()
        writer.scorer = scorer
        start = scorer.start.prompt
        optimizer = make(
            scorer, writer, [start, *create_prompt_variation([start] * (_POPULATION - 1), writer)], _TASK, _BLOCK
        )
        optimize_to_the_end(optimizer, steps=100)
        found = str(optimizer.prompts[0]) if optimizer.scores else _best_scored(optimizer.task.eval_cache, start)
        write_found(scorer, found.removesuffix(END).strip(), folder)


def _best_scored(scores: Mapping[tuple[str, str, str], float], start: str) -> str:
    """Return the best of the prompts with the most scores. It is the result if CAPO did not end its first step."""
    by_prompt: dict[str, list[float]] = {start: []}
    for (prompt, _, _), score in scores.items():
        by_prompt.setdefault(prompt, []).append(float(score))
    most = max(map(len, by_prompt.values()))
    return max((it for it, found in by_prompt.items() if len(found) == most), key=lambda it: sum(by_prompt[it]))


CONTESTANTS: Final[Mapping[str, Callable[[Path, Path, int, int], None]]] = {
    "raced": raced,
    "raced, prompt alone": raced,
    "published": raced,
    "gepa": gepa,
    "capo": capo,
    "random edits": random_edits,
}


def optimize_to_the_end(optimizer: Any, steps: int) -> None:
    """Run CAPO until the relay refuses a call, or all steps are made.

    CAPO ends without an error if one of its steps fails, whatever the reason is. So this function keeps the error of a
    step, and raises it again if it was not a refused call.
    """
    errors, step = list[Exception](), optimizer._step

    def watched_step() -> Any:
        try:
            return step()
        except Exception as error:
            errors.append(error)
            raise

    optimizer._step = watched_step
    with until_spent():
        optimizer.optimize(n_steps=steps)
        if errors:
            raise errors[0]


def write_found(scorer: PromptScorer, prompt: str, folder: Path) -> None:
    """Write the bundle of the prompt that was found, or of the start if no bundle can hold it. Count the failures."""
    scorer.write_bundle(scorer.start.prompt if scorer.fault(prompt) else prompt, folder / BUNDLE)
    (folder / FAILED).write_text(json.dumps(list(scorer.faults.values())), encoding="utf-8")


@contextmanager
def until_spent() -> Iterator[None]:
    """End the block without an error when the relay refuses a call, also if another error follows from it."""
    try:
        yield
    except Exception as error:
        if not _is_spent(error):
            raise


def _is_spent(error: BaseException | None) -> bool:
    """Return whether an error is a call that the relay refused, or was caused by one."""
    if error is None:
        return False
    if isinstance(error, RefusedRequestError) and error.status in (ANSWERS_SPENT, REPLIES_SPENT):
        return True
    return _is_spent(error.__cause__ or error.__context__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("folder", type=Path, help="of the journal and the result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", type=int, default=200)
    options = parser.parse_args()
    sys.path.insert(0, str(ADAPTERS))
    with suppress(KeyboardInterrupt):
        CONTESTANTS[options.name](options.run_file, options.folder, options.seed, options.answers)


if __name__ == "__main__":
    main()
