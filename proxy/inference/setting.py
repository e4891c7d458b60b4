"""Holds the model, the variant and the bundle that serve a request. It does not depend on HTTP or experiments."""

from dataclasses import dataclass

from proxy.backends.discovery import Model
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.variants import Choice


@dataclass(frozen=True, slots=True)
class Setting:
    """The model, the variant and the bundle that serve a request.

    Attributes:
        choice: The id of the model, and the variant.
        model: The model with this id, as a backend lists it.
        served: The bundle that provides prompt, examples and sampling; None if the model has no bundle.
    """

    choice: Choice
    model: Model
    served: ServedBundle | None
