"""Measures refusals and the similarity of answers with each embedder of `embedders`.

    python -m tests.bench.embedder_answers      about 60 minutes on two cores
    ... --only TEXT --refusals                  embedders with TEXT in their name, and queries that sound unsafe

The real proxy answers with the embedded model and with the default bundle's prompt, pinned examples and settings. Each
request gets the three nearest examples. The rows of the table differ only in the vectors, and therefore in the
retrieved examples. Decoding is greedy. The queries are validation rows. Differences are relative to the first embedder.
Answers that were generated before come from the cache of tests/bench/policies/answer_cache.py.
"""

import argparse
import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.types import Bundle
from proxy.inference.injection.served_bundles import ServedBundle
from tests.bench.embedders import openers
from tests.bench.policies.answers import Rows, as_served, cached_backend, compare_english
from tests.bench.policies.spec import parse_policy, with_policy
from tests.measurement import DATA, VALIDATION


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="measure embedders with this in their name")
    parser.add_argument("--refusals", action="store_true", help="leave out the general queries")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"embedder_answers: NOT MEASURED, the measurement data is not at {DATA}; set DRPO_DATA to its folder")
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(Path(folder), options.only, Rows(VALIDATION, with_general=not options.refusals)))


async def compare(folder: Path, only: str, rows: Rows) -> None:
    bundle = with_policy(read_bundle(default_bundle_directory()), parse_policy("3 nearest"))
    chosen = {name: open_one for name, open_one in openers(folder).items() if only in name}
    bundles = ((name, with_vectors_of(bundle, open_one())) for name, open_one in chosen.items())
    async with cached_backend() as backend:
        await compare_english("embedder", bundles, backend, rows)


def with_vectors_of(bundle: Bundle, embedder: Any) -> ServedBundle:
    """Return the bundle with the vectors of another embedder."""
    vectors = embedder.embed([example.query for example in bundle.examples])
    changed = replace(bundle, vectors=vectors)
    return as_served(changed, f"{type(embedder).__name__} {bundle.id}", embedder)


if __name__ == "__main__":
    main()
