"""Says whether there are enough units for a confidence sequence, and else which are missing."""

from typing import Final

BURN_IN: Final = 100
"""The effective sample size that an arm and the control each need before their confidence sequence is reported.

The confidence sequence relies on a central limit theorem, which is inaccurate for few units.
"""
MIN_VARIED_UNITS: Final = 30
"""A confidence sequence needs this many units whose value is not the median, in arm and control together.

With fewer such units, as for a rare event, the estimate of the variance is too inaccurate.
"""


def is_ready(effective_units: float, varied_units: int) -> bool:
    """Return whether a confidence sequence is accurate enough to be reported.

    Args:
        effective_units: The effective sample size of the smaller one of arm and control.
        varied_units: The number of units whose value is not the median, in arm and control together.
    """
    return effective_units >= BURN_IN and varied_units >= MIN_VARIED_UNITS


def missing_units(units: int, effective_units: float, varied_units: int) -> str:
    """Return in words which units are missing, for a cell of a table; empty if none are.

    Args:
        units: The number of units of the smaller one of arm and control.
        effective_units: As for `is_ready`.
        varied_units: As for `is_ready`.
    """
    if effective_units < BURN_IN:
        kind = "units" if units < BURN_IN else "effective units"
        return f"from {BURN_IN} {kind} per arm (now {effective_units:.0f})"
    if varied_units < MIN_VARIED_UNITS:
        return f"from {MIN_VARIED_UNITS} units with another value than most (now {varied_units})"
    return ""
