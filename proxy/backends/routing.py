"""Chooses the backends for a request by its model, its example set and its conversation. It sends no requests."""

from collections.abc import Sequence

from proxy.backends.backend import Backend
from proxy.backends.load_balancing import NO_AFFINITY, Affinity, rank_backends
from proxy.backends.set_placement import SetPlacement
from proxy.backends.set_plan import preference
from proxy.core.metrics import Metrics


class Router:
    """Ranks the backends of a model for each request.

    A request with an example set goes to the backend that the set belongs to (see SetPlacement). Any other request goes
    to the backend of its conversation, or to the backend with the least load.
    """

    def __init__(self, backends: Sequence[Backend], metrics: Metrics) -> None:
        self._backends = backends
        self._metrics = metrics
        self._placements: dict[str, SetPlacement] = {}

    def rank(self, model: str, affinity: Affinity = NO_AFFINITY) -> list[Backend]:
        """Return the backends that list a model, in the order in which to try them. Requests with a set are counted."""
        serving = self._serving(model)
        if not serving or (len(serving) == 1 and affinity.example_set is None):
            return serving
        placement = self._placements.get(model)
        if placement is None:
            placement = self._placements[model] = SetPlacement()
        if len(serving) == 1 and affinity.example_set is not None:
            placement.count_alone(serving[0].url, affinity.example_set)
            return serving
        loads = [backend.load for backend in serving]
        if affinity.example_set is None:
            return [serving[position] for position in rank_backends(loads, affinity.conversation)]
        placed = placement.place(loads, affinity, affinity.example_set)
        self._metrics.set_placements.labels(placed.choice).inc()
        return [serving[position] for position in placed.positions]

    def session(self, model: str, affinity: Affinity) -> str | None:
        """Return a key for the case that the backend is a router; None if the request has no set and no conversation.

        A router sends requests with the same key to the same server. Call `rank` first, which counts the request.
        """
        if affinity.example_set is None or model not in self._placements:
            return affinity.conversation
        return self._placements[model].router_key(affinity.example_set, affinity.conversation)

    def backends_of_set(self, model: str, example_set: str) -> list[Backend]:
        """Return the backends that list a model, in the order in which an example set prefers them.

        The first available backend gets the requests with this set. If they are too many for this backend, the next
        backend gets them, or a part of them. The order is the same in all processes.

        Args:
            model: The id of the model.
            example_set: The key of the set (see `set_plan.set_key`).
        """
        serving = {backend.url: backend for backend in self._serving(model)}
        return [serving[url] for url in preference(example_set, tuple(serving))]

    def _serving(self, model: str) -> list[Backend]:
        return [backend for backend in self._backends if model in backend.models]
