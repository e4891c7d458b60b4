"""Finds settings of an experiment that can never have an effect on a server, such as a model that no backend lists.

Such a setting is no error: the experiment file is valid, and the server may change. But without a warning, the operator
would wait for units that never come. The functions are pure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Final

from index.model_names import is_served, plain_names
from proxy.core.variant_names import ALIGNED, RAW, RAW_MATCHED
from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS, JUDGED_BETTER, MAX_VALUE, plain_name
from proxy.experiments.config import CALLS_PER_CASE, ExperimentFile
from proxy.experiments.definition import MIN_PROPENSITY, Arm, Experiment

_MAX_NAMED_MODELS: Final = 5  # models that a sentence lists


@dataclass(frozen=True, slots=True)
class Server:
    """The part of a server's state that the settings of experiments refer to. An unknown value is None.

    Attributes:
        models: The models that backends list. None while a backend does not answer, since it may list more models.
        bundled: The models that have a bundle.
        keys: The names of the client keys. Empty if the server requires no keys.
        judges: Whether the server has a shadow judge.
        judge_models: The models that the server of the shadow judge lists.
    """

    models: Collection[str] | None = None
    bundled: Collection[str] | None = None
    keys: Collection[str] | None = None
    judges: bool | None = None
    judge_models: Collection[str] | None = None


def find_mismatches(files: Sequence[ExperimentFile], server: Server, now: float) -> dict[str, list[str]]:
    """Return sentences about settings that can have no effect, by the name of the experiment.

    Args:
        files: The experiment files.
        server: The state of the server.
        now: The current time, Unix seconds.

    Returns:
        One entry for each experiment. Its list is empty if every setting can have an effect.
    """
    return {file.experiment.name: list(_mismatches(file, server, now)) for file in files}


def mismatch_lines(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the sentences of `find_mismatches` in one list, each with the name of its experiment."""
    return [f"experiment {name}: {sentence}" for name, sentences in found.items() for sentence in sentences]


def _mismatches(file: ExperimentFile, server: Server, now: float) -> Iterator[str]:
    experiment = file.experiment
    yield from _scope_mismatches(experiment, now)
    yield from _weight_mismatches(experiment)
    yield from _metric_mismatches(file)
    yield from _unmeasured_mismatches(experiment)
    yield from _judge_mismatches(file, server)
    if server.keys is not None:
        yield from _key_mismatches(experiment, server.keys)
    if server.models is not None:
        yield from _model_mismatches(experiment, server.models)
        if server.bundled is not None:
            yield from _bundle_mismatches(experiment, server.models, server.bundled)
            yield from _arm_mismatches(experiment, server.models, server.bundled)


def _scope_mismatches(experiment: Experiment, now: float) -> Iterator[str]:
    if experiment.end <= now:
        ended = datetime.fromtimestamp(experiment.end, UTC)
        yield f"`end` has passed ({ended:%Y-%m-%d %H:%M} UTC), so no request takes part."
    if experiment.share == 0:
        yield "`share` is 0, so no unit takes part."
    elif experiment.share * (experiment.slots[1] - experiment.slots[0]) < MIN_PROPENSITY:
        yield "`share` and `slots` leave so few units that none takes part."


def _weight_mismatches(experiment: Experiment) -> Iterator[str]:
    weighted = [arm.name for arm in experiment.arms if arm.weight]
    if len(weighted) == 1:
        yield f"only the arm {weighted[0]} has a weight above 0, so there is nothing to compare."
    elif experiment.control not in weighted:
        yield f"the control {experiment.control} has the weight 0, so the other arms are compared with nothing."
    for arm in experiment.arms:
        if 0 < experiment.propensity(arm) < MIN_PROPENSITY:
            yield f"the weight of the arm {arm.name} is so small beside the others that no unit gets it."


def _metric_mismatches(file: ExperimentFile) -> Iterator[str]:
    compared = {metric.name for metric in file.experiment.all_metrics}
    for name in file.lower_is_better:
        if name in AUTOMATIC_METRICS:
            yield f"`lower_is_better` names {name}, but the direction of metrics that the server measures is fixed."
        elif name not in compared:
            yield f"`lower_is_better` names {name}, which is not among `metrics` and guardrails."


def _unmeasured_mismatches(experiment: Experiment) -> Iterator[str]:
    """Yield sentences about metrics and guardrails that can have no effect.

    The name of such a metric is almost that of an automatic metric. Such a guardrail has a tolerance that no difference
    can exceed.
    """
    measured = {plain_name(name): name for name in AUTOMATIC_METRICS}
    for name in dict.fromkeys(metric.name for metric in experiment.all_metrics):
        if name not in AUTOMATIC_METRICS and plain_name(name) in measured:
            yield f"the metric {name} gets no values: the server measures {measured[plain_name(name)]}."
    for guardrail in experiment.guardrails:
        name = guardrail.metric.name
        automatic = AUTOMATIC_METRICS.get(name)
        low, high = (0.0, automatic.maximum) if automatic else (-MAX_VALUE, MAX_VALUE)
        if guardrail.tolerance >= high - low:
            yield (
                f"the guardrail of {name} has the tolerance {guardrail.tolerance:g}, which no difference can exceed: "
                f"the values are from {low:g} to {high:g}."
            )


def _judge_mismatches(file: ExperimentFile, server: Server) -> Iterator[str]:
    names = {metric.name for metric in file.experiment.all_metrics}
    if JUDGED_BETTER in names and file.judge is None:
        yield f"the metric {JUDGED_BETTER} gets no values without the table [judge]."
    if file.judge is None:
        return
    if server.judges is False:
        yield "[judge] has no effect, because the server was started without --judge."
    if file.judge.share == 0 or file.judge.calls < CALLS_PER_CASE:
        yield f"[judge] judges nothing: `share` must be above 0, and `calls` at least {CALLS_PER_CASE}."
    if server.judge_models and not is_served(file.judge.model, server.judge_models):
        listed = ", ".join(plain_names(list(server.judge_models))[:_MAX_NAMED_MODELS])
        yield f"[judge] `model` is {file.judge.model}, which the server of --judge does not list. It lists {listed}."


def _key_mismatches(experiment: Experiment, keys: Collection[str]) -> Iterator[str]:
    if missing := sorted(experiment.keys - set(keys)):
        listed = f"There are {', '.join(sorted(keys))}." if keys else "The server requires no keys (--api-keys-file)."
        consequence = _consequence(experiment.keys, keys)
        yield f"`keys` names {', '.join(missing)}, but no client key has this name. {listed}{consequence}"


def _model_mismatches(experiment: Experiment, models: Collection[str]) -> Iterator[str]:
    if missing := sorted(experiment.models - set(models)):
        consequence = _consequence(experiment.models, models)
        yield f"`models` names {', '.join(missing)}, which no backend lists. {_listed(models)}{consequence}"
    for arm in experiment.arms:
        if arm.model is not None and arm.model not in models:
            yield (
                f"the arm {arm.name} is for the model {arm.model}, which no backend lists, so its requests are served "
                f"without the experiment. {_listed(models)}"
            )


def _listed(models: Collection[str]) -> str:
    return f"Listed: {', '.join(sorted(models)) or 'none'}."


def _consequence(named: Collection[str], existing: Collection[str]) -> str:
    return "" if set(named) & set(existing) else " No request takes part."


def _bundle_mismatches(experiment: Experiment, models: Collection[str], bundled: Collection[str]) -> Iterator[str]:
    for arm in experiment.arms:
        if arm.variant not in (ALIGNED, RAW_MATCHED) or arm.bundle:
            continue
        used = _models_of(experiment, arm, models)
        if without := sorted(used - set(bundled)):
            yield (
                f"the arm {arm.name} has the variant {arm.variant}, but {', '.join(without)} has no bundle, so nothing "
                "is injected. Give --bundle MODEL=DIR, or `bundle` for the arm."
            )


def _arm_mismatches(experiment: Experiment, models: Collection[str], bundled: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each pair of arms that serve every request in the same way."""
    requested = sorted(set(experiment.models or models) & set(models))
    weighted = [arm for arm in experiment.arms if arm.weight]
    for one, other in combinations(weighted, 2) if requested else ():
        if all(_treatment(one, model, bundled) == _treatment(other, model, bundled) for model in requested):
            yield (
                f"the arms {one.name} and {other.name} serve every request in the same way. Such an A/A test checks "
                "the set-up, and cannot find a better arm."
            )


def _treatment(arm: Arm, requested: str, bundled: Collection[str]) -> tuple[str, str, str]:
    """Return the model, the variant and the bundle with which an arm serves a request for a model.

    The bundle is empty if the server chooses it. Without a bundle, nothing is injected, as with the variant raw.
    """
    model = arm.model or requested
    if arm.variant == RAW or not (arm.bundle or model in bundled):
        return model, RAW, ""
    return model, arm.variant or ALIGNED, arm.bundle or ""


def _models_of(experiment: Experiment, arm: Arm, models: Collection[str]) -> set[str]:
    """Return the listed models that may serve requests of an arm: the arm's own model, or those of the experiment."""
    if arm.model is not None:
        return {arm.model} & set(models)
    return set(experiment.models or models) & set(models)
