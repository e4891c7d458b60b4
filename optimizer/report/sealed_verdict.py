"""Says in one sentence what the sealed evaluation found: in the terminal, the report and the improvement summary."""

from index.counted import counted
from optimizer.core.journal import Event


def sealed_sentence(sealed: Event | None, *, is_found: bool, kept_start: bool, baseline: str = "the baseline") -> str:
    """Return a sentence that says whether the new bundle is better than the baseline.

    Args:
        sealed: The `sealed` event of the run; None if the run has no sealed rows.
        is_found: Whether the bundle that was written is the one that the search found, and not the baseline.
        kept_start: Whether the search kept the baseline. Then there is no new bundle.
        baseline: What the reader calls the baseline.
    """
    if kept_start:
        return f"The search kept its start, {baseline}: no change that it tried was clearly better. No bundle is new."
    if sealed is None:
        return f"There are no sealed rows, so nothing shows whether the new bundle is better than {baseline}."
    mean, low, high = sealed["against"]["baseline"]["difference"]
    rows = counted(sealed["rows"], "sealed row")
    lead = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] on {rows}, which the search did not see"
    if sealed["improved"]:
        return f"The new bundle is better than {baseline} by {lead}."
    kept = 'It was written because of write = "found".' if is_found else f"The run wrote {baseline} as its bundle."
    return f"The search found nothing that is better than {baseline} by more than chance explains: {lead}. {kept}"
