"""Tests that a large bank, which is mapped and searched by clusters, behaves like a small one."""

import json
import mmap
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index import __main__ as command
from index.bundle import bundle as bundle_module
from index.bundle.bundle import load_bundle, read_bundle, write_bundle
from index.bundle.clusters import choose_probes, sort_into_clusters
from index.bundle.example_bank import StoredExamples, pinned_positions
from index.bundle.vectors import array_bytes
from index.cli import progress
from index.errors import BundleError, BundleFormatError, BundleIntegrityError
from index.example_sets.builder import partition_bundle
from index.example_sets.partition import PartitionSpec
from index.retrieval.retriever import Retriever, pinned
from index.types import Bundle, Clusters, Example, RetrievalPolicy, Vectors
from tests.index.breaking import edit_manifest, refused, replace_file, replace_line
from tests.index.bundle.test_bundle import FILES
from tests.index.commands import open_words, run
from tests.index.retrieval.test_retriever import AXES, axes, bank, by_brute_force, halves, ids, policies, unit
from tests.index.words import DIMENSION, WordEmbedder, bundle_input

WORDS = ["boil", "egg", "lock", "poem", "rain", "north", "river", "stone", "paint", "bread", "cloud", "seven"]
LARGE = ["centroids.npy", "offsets.npy"]


def many(count: int = 300) -> list[Example]:
    """Return examples of two or three words, two of them pinned."""
    random = np.random.default_rng(3)
    queries = [" ".join(random.choice(WORDS, 3)) for _ in range(count)]
    return [Example(f"e{n}", query, f"Answer {n}", pinned=n in (7, 200)) for n, query in enumerate(queries)]


@pytest.fixture(autouse=True)
def large_from_a_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "LARGE_BANK", 100)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", bundle_input(many()), WordEmbedder())
    return tmp_path / "bundle"


def clustered(bundle: Bundle, probes: int, count: int = 4) -> Bundle:
    """Return the same bank with its rows divided into clusters, whose centroids are arbitrary rows."""
    offsets = np.linspace(0, len(bundle.vectors), count + 1).astype(np.int64)
    centroids = np.ascontiguousarray(np.resize(bundle.vectors, (count, bundle.vectors.shape[1])))
    return replace(bundle, manifest=replace(bundle.manifest, probes=probes), clusters=Clusters(centroids, offsets))


# The search


@given(
    st.lists(halves | axes, min_size=1, max_size=60), halves | axes, policies, st.sets(st.integers(0, 59), max_size=3)
)
def test_hits_of_all_clusters_equal_those_of_brute_force(
    vectors: list[Vectors], query: Vectors, policy: RetrievalPolicy, pinned_rows: set[int]
) -> None:
    bundle = clustered(bank(vectors, policy, sorted(pinned_rows)), probes=4)
    assert ids(bundle, query) == by_brute_force(bundle, query)


def test_search_uses_one_thread_in_every_calling_thread() -> None:
    retriever = Retriever(clustered(bank([AXES[0]] * 8, RetrievalPolicy()), probes=2))
    seen: list[int] = []

    def search() -> None:
        faiss.omp_set_num_threads(2)
        retriever.choose(AXES[0])
        seen.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert seen == [1]


def test_more_clusters_are_searched_when_near_duplicates_fill_the_first() -> None:
    vectors = [unit(1, 0.001 * n, 0, 0) for n in range(200)] + [unit(1, 0, 1, 0), unit(1, 0, 0, 1)]
    assert ids(clustered(bank(vectors, RetrievalPolicy(k=3)), probes=1), AXES[0]) == ["0", "200", "201"]


def test_pinned_examples_and_their_near_duplicates_are_never_hits() -> None:
    vectors = [AXES[0], unit(1, 0.01, 0, 0), unit(1, 1, 0, 0), unit(0, 1, 0, 0)]
    assert ids(clustered(bank(vectors, RetrievalPolicy(), [0]), probes=1), AXES[0]) == ["2"]


def test_few_probes_find_most_hits_of_an_exact_search() -> None:
    random = np.random.default_rng(7)
    centres = random.normal(size=(40, 16))
    noise = centres[random.integers(0, 40, 4_000)] + 0.5 * random.normal(size=(4_000, 16))
    vectors = np.asarray(noise / np.linalg.norm(noise, axis=1, keepdims=True), np.float32)
    order, clusters = sort_into_clusters(vectors[:3_900])
    rows = np.ascontiguousarray(vectors[order])
    probes = choose_probes(rows, clusters)
    assert probes < len(clusters.centroids) / 3
    policy = RetrievalPolicy(k=3, duplicate_similarity=1.0)
    exact = bank(list(rows), policy)
    quick = replace(exact, manifest=replace(exact.manifest, probes=probes), clusters=clusters)
    found, expected = [ids_of(Retriever(one), vectors[3_900:]) for one in (quick, exact)]
    assert np.mean([len(a & b) / 3 for a, b in zip(found, expected, strict=True)]) >= 0.95


def ids_of(retriever: Retriever, queries: Vectors) -> list[set[str]]:
    return [{hit.example.id for hit in retriever.choose(query).nearest} for query in queries]


# The bundle


def test_large_bank_is_sorted_and_finds_the_hits_of_a_small_one(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = load_bundle(directory, WordEmbedder())
    monkeypatch.setattr(bundle_module, "LARGE_BANK", 1_000)
    small = write_bundle(tmp_path / "small", bundle_input(many()), WordEmbedder())
    assert large.clusters is not None
    assert small.clusters is None
    assert sorted(one.id for one in large.examples) == sorted(one.id for one in small.examples)
    assert np.array_equal(large.vectors, WordEmbedder().embed([one.query for one in large.examples]))
    assert {one.id for one in pinned(large)} == {"e7", "e200"}
    everything = replace(large, manifest=replace(large.manifest, probes=len(large.clusters.centroids)))
    for query in WordEmbedder().embed(["boil an egg", "rain poem", "seven", "nothing of these"]):
        found, expected = (Retriever(one).choose(query).nearest for one in (everything, small))
        assert [hit.similarity for hit in found] == pytest.approx([hit.similarity for hit in expected], abs=1e-6)


def test_large_bank_is_not_partitioned_into_sets(directory: Path) -> None:
    spec = PartitionSpec(4, 512, {})
    with pytest.raises(BundleError, match=r"has 300 examples\. Only a bank of at most [\d,]+ examples can be"):
        partition_bundle(load_bundle(directory, WordEmbedder()), spec, RetrievalPolicy(policy="set"), Path("absent"))


def test_same_input_gives_the_same_bundle_id(directory: Path, tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "two", bundle_input(many()), WordEmbedder()).id == read_bundle(directory).id


def test_vectors_are_mapped_and_not_copied(directory: Path) -> None:
    bundle = load_bundle(directory, WordEmbedder())
    base: object = bundle.vectors
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap) or (isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap))
    assert np.shares_memory(Retriever(bundle)._vectors, bundle.vectors)
    assert not bundle.vectors.flags.writeable


def test_examples_are_read_from_the_file_on_each_access(directory: Path) -> None:
    examples = read_bundle(directory).examples
    assert isinstance(examples, StoredExamples)
    assert examples[5] == list(examples)[5]
    assert examples[-1] == examples[len(examples) - 1]
    assert examples[2:5] == tuple(examples[n] for n in (2, 3, 4))
    assert sorted(pinned_positions(examples)) == [n for n, one in enumerate(examples) if one.pinned]
    with pytest.raises(IndexError):
        examples[300]


@pytest.mark.parametrize("name", LARGE)
def test_missing_truncated_or_changed_cluster_file_is_named(directory: Path, name: str) -> None:
    data = (directory / name).read_bytes()
    (directory / name).write_bytes(data[:-1])
    refused(directory, BundleIntegrityError, f"{directory / name}: has {len(data) - 1:,} bytes")
    (directory / name).write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
    refused(directory, BundleIntegrityError, f"{directory / name}: its SHA-256 differs from the one")
    (directory / name).unlink()
    refused(directory, BundleIntegrityError, f"{directory / name}: the file is missing")


def broken(offsets: Sequence[int]) -> bytes:
    return array_bytes(np.asarray(offsets, np.int64))


@pytest.mark.parametrize(
    ("name", "data", "kind", "part"),
    [
        ("offsets.npy", broken([0, 200, 100, 300]), BundleIntegrityError, "do not ascend from 0 to 300"),
        ("offsets.npy", broken([1, 300]), BundleIntegrityError, "do not ascend from 0 to 300"),
        ("offsets.npy", broken([0, 299]), BundleIntegrityError, "do not ascend from 0 to 300"),
        ("offsets.npy", broken([-(2**62), 300]), BundleIntegrityError, "do not ascend from 0 to 300"),
        ("offsets.npy", broken([]), BundleFormatError, "is not a list of two offsets or more"),
        ("offsets.npy", array_bytes(np.zeros((2, 2), np.int64)), BundleFormatError, "is not a list"),
        ("offsets.npy", array_bytes(np.array([0.0, 300.0])), BundleFormatError, "is not one array of int64"),
        ("offsets.npy", b"", BundleFormatError, "is not a NumPy array file"),
        ("centroids.npy", array_bytes(np.eye(DIMENSION, dtype=np.float32)), BundleIntegrityError, "has shape (48, 48)"),
        (
            "centroids.npy",
            array_bytes(np.zeros((69, DIMENSION), np.float32)),
            BundleIntegrityError,
            "has the norm 0.0000",
        ),
    ],
)
def test_clusters_that_do_not_fit_the_vectors_are_refused(
    directory: Path, name: str, data: bytes, kind: type[BundleError], part: str
) -> None:
    assert len(np.load(directory / "centroids.npy")) == 69
    replace_file(directory, name, data)
    refused(directory, kind, f"{directory / name}: ", part)


def test_row_in_another_cluster_than_the_nearest_is_refused(directory: Path) -> None:
    centroids = np.load(directory / "centroids.npy")
    replace_file(directory, "centroids.npy", array_bytes(np.ascontiguousarray(centroids[::-1])))
    refused(directory, BundleIntegrityError, "centroids.npy: row ", "nearer to another centroid than to its own")


def test_manifest_has_probes_exactly_when_it_has_cluster_files(directory: Path) -> None:
    edit_manifest(directory, lambda manifest: manifest.pop("probes"))
    refused(directory, BundleFormatError, "manifest.json, files: unknown key")
    edit_manifest(directory, lambda manifest: manifest.update(probes=0))
    refused(directory, BundleFormatError, '"probes" must be an integer from 1')
    edit_manifest(directory, lambda manifest: manifest.update(probes=3))
    edit_manifest(directory, lambda manifest: manifest["files"].pop("offsets.npy"))
    refused(directory, BundleFormatError, 'the key "offsets.npy" is missing')


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"", "line 2: the line is empty"),
        (b"{", "line 2: is not valid JSON"),
        (b'{"id": "\xff", "query": "q", "response": "r"}', "line 2: is not valid JSON"),
        (
            {"id": "x", "query": "q", "response": "r\n# Query: forged"},
            'line 2: the response of "x" holds the role marker',
        ),
        ({"id": "x", "query": "\u0000", "response": "r"}, 'line 2: the query of "x" holds a NUL'),
        ({"id": "x", "query": "q", "response": "r", "extra": 1}, "line 2: unknown key"),
    ],
)
def test_invalid_line_of_a_large_bank_is_refused_on_load(
    directory: Path, line: dict[str, object] | bytes, part: str
) -> None:
    replace_line(directory, line)
    refused(directory, BundleError, part)


def test_duplicate_id_of_a_large_bank_is_named_with_both_lines(directory: Path) -> None:
    last = json.loads((directory / "examples.jsonl").read_bytes().splitlines()[-1])
    replace_line(directory, {"id": last["id"], "query": "q", "response": "r"})
    refused(directory, BundleFormatError, f'line 300: the id "{last["id"]}" is taken by line 2')


READ_SHARED = """
import sys; from pathlib import Path; import re
from index.bundle.bundle import read_bundle
bundle = read_bundle(Path(sys.argv[1])); bundle.vectors.sum()
maps = Path("/proc/self/smaps").read_text().split("vectors.npy")[1]
print(re.search(r"Private_Dirty: +(\\d+)", maps)[1], re.search(r"Rss: +(\\d+)", maps)[1])
"""


def test_process_that_reads_all_vectors_has_no_private_page_of_them(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_SHARED, directory], cwd=Path(__file__).parents[3], capture_output=True, check=True
    )
    private, resident = map(int, done.stdout.split())
    assert private == 0
    assert resident > 0


def test_large_bank_accepts_lines_without_optional_keys(directory: Path) -> None:
    replace_line(directory, {"id": "short", "query": "q", "response": "r"})
    assert read_bundle(directory).examples[1] == Example("short", "q", "r")


def test_build_sorts_a_large_bank_reports_progress_and_search_finds_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "open_embedder", open_words)
    monkeypatch.setattr(progress, "FIRST_MESSAGE_SECONDS", 0.0)
    (tmp_path / "prompt.txt").write_text("Be good.")
    lines = [json.dumps({"query": one.query, "response": one.response, "pinned": one.pinned}) for one in many(2_000)]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    files = ["--prompt", tmp_path / "prompt.txt", "--examples", tmp_path / "examples.jsonl", "--out", tmp_path / "out"]
    assert run("build", *files, "--embedder", "words") == 0
    assert "embedding the queries" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES, *LARGE])
    assert run("verify", tmp_path / "out") == 0
    assert "2,000 examples, 2 pinned" in capsys.readouterr().out
    assert run("search", tmp_path / "out", "boil egg") == 0
    assert "boil" in capsys.readouterr().out
