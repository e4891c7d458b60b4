"""The presets of run.toml: the defaults that `[search] recipe` sets. Keys in run.toml replace them one by one.

The recipe `raced` sets nothing: the tables have its defaults. The recipe `drpo` is the method of DRPO's authors (arXiv
2411.08733, and their code). docs/recipes.md compares the two, key by key.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from index.types import RetrievalPolicy
from optimizer.core.config_tables import ALL, DRPO, FOUND, LATEST, PUBLISHED, RACED, REFERENCE
from optimizer.core.model_tables import CRITIC, IMPARTIAL, INTEGER, PUBLISHED_RULES, JudgeTable, WriterTable
from optimizer.core.reward_table import JUDGED, ZERO

Preset = Mapping[str, Mapping[str, Any]]
"""Values by the name of a table, and then by the name of a key. The value of a nested table is its dataclass."""

_PUBLISHED_CRITERIA: Final = (
    *("helpfulness", "clarity", "factuality", "depth", "engagement", "conciseness", "safety", "compliance"),
    *("limitations", "critical-thinking", "creativity", "interactivity", "empathy", "sensitivity"),
)
_MAX_TOKENS: Final = 2048
_ROOM: Final = 1_000_000
"""A limit on injected tokens that no prompt reaches: the published method has no such limit."""

_DRPO: Final[Preset] = MappingProxyType(
    {
        "search": MappingProxyType(
            {
                "algorithm": PUBLISHED,
                "beam": 2,
                "actions": 3,
                "depth": 20,
                "deeper": 10,
                "keep_above": 4.5,
                "resample": True,
                "k": 2,
                "seed": 42,
                "words": 0,
                "shared_words": 0,
                "repeated": 1.0,
                "writer": WriterTable(PUBLISHED_RULES, temperature=0.2, top_p=0.95),
            }
        ),
        "reward": MappingProxyType(
            {
                "weights": MappingProxyType({"judge": 1.0}),
                "safety": 0.0,
                "unreadable": ZERO,
                "pleading": JUDGED,
                "judge": JudgeTable(
                    IMPARTIAL,
                    _PUBLISHED_CRITERIA,
                    new_criteria=False,
                    analysis=True,
                    reasons=True,
                    scores=INTEGER,
                    attempts=1,
                ),
            }
        ),
        "examples": MappingProxyType(
            {
                "queries": 16,
                "first": REFERENCE,
                "rounds": 5,
                "follow": LATEST,
                "choice": ALL,
                "pinned": 0,
                "words": 0,
                "shared_words": 0,
                "repeated": 1.0,
                "judge": JudgeTable(
                    CRITIC,
                    _PUBLISHED_CRITERIA,
                    fewest=3,
                    most=6,
                    analysis=True,
                    reasons=True,
                    scores=INTEGER,
                ),
                "writer": WriterTable(PUBLISHED_RULES, temperature=0.0, top_p=1.0),
            }
        ),
        "tune": MappingProxyType({"policy": (), "k": (), "order": ()}),
        "bundle": MappingProxyType(
            {
                "prompt": "You are a helpful assistant.",
                "layout": "drpo",
                "retrieval": RetrievalPolicy(
                    "nearest",
                    k=3,
                    minimum_similarity=-1.0,
                    duplicate_similarity=1.0,
                    order="similar_first",
                    max_injected_tokens=_ROOM,
                ),
                "sampling": MappingProxyType({"temperature": 0.0, "max_tokens": _MAX_TOKENS}),
                "write": FOUND,
            }
        ),
    }
)
_PRESETS: Final[Mapping[str, Preset]] = MappingProxyType({RACED: MappingProxyType({}), DRPO: _DRPO})


def preset(recipe: str) -> Preset:
    """Return the preset of a recipe."""
    return _PRESETS[recipe]
