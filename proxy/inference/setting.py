"""What a request is served with, as one value. It does not depend on HTTP or experiments."""

from dataclasses import dataclass

from proxy.backends.discovery import Model
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.variants import Choice


@dataclass(frozen=True, slots=True)
class Setting:
    """What a request is served with.

    Attributes:
        choice: The model's id and the variant.
        model: The model with this id, as a backend lists it.
        served: The bundle that prompt, examples and sampling come from; None if there is none for the model.
    """

    choice: Choice
    model: Model
    served: ServedBundle | None
