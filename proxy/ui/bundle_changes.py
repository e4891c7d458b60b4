"""Says what the bundle of an arm changes, compared with the bundle of the control.

The operator page shows these changes in the view Improve.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from index.bundle.differences import differences
from index.types import Bundle
from proxy.api.gateway import Gateway
from proxy.experiments.assignment import ActiveExperiments
from proxy.experiments.definition import Arm, Experiment


async def bundle_changes(gateway: Gateway, name: str) -> Sequence[Mapping[str, Any]]:
    """Return the changes of each arm of an experiment that has another bundle than the control.

    The field `lines` of a change has the lines that `drpo-optimizer diff` prints. The field `before` is null if the
    control has no bundle. The result is empty if no experiment has this name, or no arm has another bundle.
    """
    active = gateway.active_experiments
    experiment = next((one for one in active.experiments if one.name == name), None) if active else None
    if active is None or experiment is None:
        return []
    control = _bundle(gateway, active, experiment, experiment.arm(experiment.control))
    bundles = {arm.name: _bundle(gateway, active, experiment, arm) for arm in experiment.arms}
    changed = {arm: after for arm, after in bundles.items() if after and (control is None or after.id != control.id)}
    return [await asyncio.to_thread(_change, arm, experiment.control, control, one) for arm, one in changed.items()]


def _bundle(gateway: Gateway, active: ActiveExperiments, experiment: Experiment, arm: Arm) -> Bundle | None:
    """Return the bundle that serves an arm's requests; None for no bundle.

    If the arm names no bundle, return the bundle of the first of its models that has one.
    """
    if arm.bundle:
        return active.bundles[arm.bundle].bundle
    if arm.variant in ("raw", "raw-matched"):
        return None
    models = [arm.model] if arm.model else sorted(experiment.models) or list(gateway.bundles)
    served = next((gateway.bundles[model] for model in models if model in gateway.bundles), None)
    return served.bundle if served else None


def _change(arm: str, control: str, before: Bundle | None, after: Bundle) -> Mapping[str, Any]:
    return {
        "arm": arm,
        "control": control,
        "before": before.manifest.name if before else None,
        "after": after.manifest.name,
        "lines": list(differences(before, after)) if before else [],
    }
