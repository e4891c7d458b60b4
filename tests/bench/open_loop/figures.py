"""Reads and writes figures.json: the measured figures, from which load.md, its picture and docs/scaling.md are made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.bench.open_loop.knee import Knee
from tests.bench.open_loop.plan import Shape
from tests.bench.open_loop.step import Step

FILE: Final = Path(__file__).parent / "figures.json"
RELAY, OURS, BASE, TWO = "bare aiohttp relay", "drpo-proxy", "drpo-proxy, base model", "drpo-proxy, two workers"
ROUTER, NO_PROXY = "vllm-router", "no proxy"
PACE: Final = 40.0  # tokens per second of a stream
MIX: Final = Shape("a stream of 200 tokens, one query in five long and new", 200, 0.2)
KNOWN: Final = Shape("one token, a known query", 1, 0.0)
NEW: Final = Shape("one token, a long new query", 1, 1.0)
STREAM: Final = Shape("a stream of 200 tokens, a known query", 200, 0.0)
CPU_RATES: Final[Mapping[Shape, float]] = {KNOWN: 40.0, NEW: 5.0, STREAM: 5.0, MIX: 5.0}  # arrivals per second


@dataclass(frozen=True, slots=True)
class Search:
    """What the search for one gateway found, and one longer step at half of the knee."""

    knee: Knee
    half: Step | None


@dataclass(frozen=True, slots=True)
class Knees:
    """The knees of all gateways.

    Attributes:
        date: The day of the measurement.
        command: The command that made the measurement.
        machine: A description of the machine.
        seconds: How long requests were measured at each rate, in seconds.
        bound: The limit of the p99 of the added time that defines the knee, in milliseconds.
        searches: The result of the search, by the name of the gateway.
    """

    date: str
    command: str
    machine: str
    seconds: float
    bound: float
    searches: Mapping[str, Search]


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time per request.

    Attributes:
        date: The day of the measurement.
        command: The command that made the measurement.
        machine: A description of the machine.
        rates: Arrivals per second, by the name of the shape.
        milliseconds: One value for each turn, by gateway and by the name of the shape. It is None if requests failed or
            were degraded, because such requests cost less.
    """

    date: str
    command: str
    machine: str
    rates: Mapping[str, float]
    milliseconds: Mapping[str, Mapping[str, Sequence[float | None]]]

    def times(self, gateway: str, shape: Shape) -> list[float]:
        """Return the values of a gateway and a shape, without None; empty if there are none."""
        return [one for one in self.milliseconds.get(gateway, {}).get(shape.name, ()) if one is not None]


@dataclass(frozen=True, slots=True)
class Figures:
    """The last measurements. A table that was never measured is None."""

    knees: Knees | None
    cpu: Cpu | None


def read(file: Path = FILE) -> Figures:
    """Return the figures in a file. Without a file, no table was measured."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    knees, cpu = found.get("knees"), found.get("cpu")
    return Figures(_knees(knees) if knees else None, Cpu(**cpu) if cpu else None)


def write(figures: Figures, file: Path = FILE) -> None:
    """Write the figures. For a table that is None, the file keeps its figures."""
    old = read(file)
    new = replace(figures, knees=figures.knees or old.knees, cpu=figures.cpu or old.cpu)
    file.write_text(json.dumps(_rounded(asdict(new)), indent=1) + "\n", encoding="utf-8")


def _knees(found: dict[str, Any]) -> Knees:
    searches = {name: _search(one) for name, one in found["searches"].items()}
    return Knees(**{**found, "searches": searches})


def _search(found: dict[str, Any]) -> Search:
    knee = {**found["knee"], "steps": tuple(Step(**one) for one in found["knee"]["steps"])}
    return Search(Knee(**knee), Step(**found["half"]) if found["half"] else None)


def _rounded(value: Any) -> Any:
    """Return the same value, with at most four digits after the point."""
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
