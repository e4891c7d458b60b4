"""One request on its way through the handlers: its record, and what only the HTTP layer knows of it."""

from dataclasses import dataclass

from proxy.api.auth import Account
from proxy.experiments.assignment import Assignment
from proxy.experiments.shadow_judge import Sample
from proxy.inference.request_record import Record


@dataclass(slots=True)
class HandledRequest(Record):
    """A record, with the account that pays for it and the experiments that it is in."""

    account: Account | None = None
    assignment: Assignment | None = None
    sample: Sample | None = None
