"""Writes the experiment file that compares the new bundle with the current one. drpo-proxy reads it."""

import re
from dataclasses import dataclass
from typing import Final

from index.counted import counted
from optimizer.harvest.store.reader import StoreQuery
from optimizer.improve.planned_size import MIN_RATERS, MetricFeedback, is_measured, planned_units, planned_variance
from optimizer.improve.toml_text import toml_value

_NOT_IN_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_MAX_NAME: Final = 64  # characters
_GUARDRAILS: Final = (("ended_by_itself", 0.02), ("error", 0.01), ("regenerated", 0.02))
"""The metrics of the guardrails, each with its tolerance."""


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """What an experiment file says.

    Attributes:
        name: The name of the experiment.
        current: The bundle of the control: a path, or the name of a bundle of drpo.
        new: The path of the bundle of the treatment.
        query: What was read from the store. The experiment has the metric of this query.
        feedback: What the store says about the metric.
        difference: The smallest difference of the metric that the experiment should find.
    """

    name: str
    current: str
    new: str
    query: StoreQuery
    feedback: MetricFeedback
    difference: float

    @property
    def units(self) -> int:
        """The planned number of users in both arms together."""
        return planned_units(planned_variance(self.feedback, self.query), self.difference)

    @property
    def reason(self) -> str:
        """How the planned number was computed, in two lines."""
        variance = planned_variance(self.feedback, self.query)
        rated = f"{counted(self.feedback.users, 'user')} rated by {self.query.metric}"
        source = (
            f"{rated}, with the mean {self.feedback.mean:.3f} and the variance {variance:.3f} between users"
            if is_measured(self.feedback)
            else f"{rated}: fewer than {MIN_RATERS}, or all alike. So the largest variance, {variance:.3f}, is assumed"
        )
        return f"{source}.\nA difference of {self.difference:g} is then found with a power of 80 %."


def experiment_name(text: str) -> str:
    """Return a text as a name that an experiment file can have."""
    return _NOT_IN_NAME.sub("-", text).strip("-.")[:_MAX_NAME] or "improvement"


def experiment_text(plan: ExperimentPlan) -> str:
    """Return the experiment file as TOML."""
    arms = (("current", plan.current), ("new", plan.new))
    lines = [
        "# The new bundle against the current one. drpo-proxy serves the new bundle only after you copy this file into",
        "# the folder that --experiment names, and send SIGHUP. Or start drpo-proxy with --experiment and this file.",
        "# Change `bundle` if you move a bundle. If the proxy serves several models, add: models = [...]",
        f"name = {toml_value(plan.name)}",
        'control = "current"',
        f"metrics = [{toml_value(plan.query.metric)}]",
        *(f"# {line}" for line in plan.reason.splitlines()),
        f"planned_units = {plan.units}",
        *(line for name, bundle in arms for line in ("", "[[arms]]", *_values(name=name, bundle=bundle, weight=50))),
        *(
            line
            for metric, tolerance in _GUARDRAILS
            if metric != plan.query.metric
            for line in ("", "[[guardrails]]", *_values(metric=metric, tolerance=tolerance))
        ),
    ]
    return "\n".join(lines) + "\n"


def _values(**values: object) -> list[str]:
    return [f"{name} = {toml_value(value)}" for name, value in values.items()]
