"""The section about what people prefer, as the writer model stated it. Report and improvement summary contain it."""

from collections.abc import Iterator, Sequence

from optimizer.core.journal import Event
from optimizer.report.markup import text


def stated_preferences(specifications: Sequence[Event]) -> Iterator[str]:
    """Yield the section with the list of what people prefer, if a run made one.

    Args:
        specifications: The `specification` events of the run. A resumed run has several; the last one counts.
    """
    rules = specifications[-1]["rules"] if specifications else ()
    if not rules:
        return
    yield "<h2>What people prefer</h2>"
    yield (
        '<p class="soft">The writer model read preference pairs and comments of users, and stated this list. It got '
        "the list whenever it wrote a prompt.</p><ul>"
    )
    yield from (f'<li dir="auto">{text(rule)}</li>' for rule in rules)
    yield "</ul>"
