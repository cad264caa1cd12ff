"""The house rules, decided by a machine: imports, sizes, names, documentation, what importing costs."""

from __future__ import annotations

import ast
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import semseg_automl
from semseg_automl.core.config import RunConfig

PACKAGE = Path(semseg_automl.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
FILE_LINES = 500
FUNCTION_LINES = 50
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
HEAVY = ("torch", "torchvision", "lightning", "optuna", "timm", "segment_anything", "matplotlib", "onnx")
UNUSED_IN_PREDICTION = ("lightning", "optuna", "timm", "matplotlib", "onnx", "torchmetrics", "sqlalchemy")
PICKLES = {"pickle", "cloudpickle", "dill"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _python(code: str) -> str:
    """Run code in a fresh interpreter in the project's root and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_import_contracts() -> None:
    pytest.importorskip("importlinter", reason="import-linter is in the extra [dev]")
    _python("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")


def test_core_needs_only_the_standard_library() -> None:
    known = set(sys.stdlib_module_names) | {"semseg_automl"}
    for path, tree in _trees():
        if path.parent.name != "core":
            continue
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            outside = [n for n in names if n.split(".")[0] not in known]
            assert not outside, f"{_name(path)}:{node.lineno} imports {outside}"


def test_files_are_short() -> None:
    lengths = {_name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    long = {name: n for name, n in lengths.items() if n > FILE_LINES}
    assert not long, f"over {FILE_LINES} lines: {long}"


def test_functions_fit_a_screen() -> None:
    """Fifty lines without the docstring."""
    long = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
                if lines >= FUNCTION_LINES:
                    long.append(f"{_name(path)}:{node.lineno} {node.name}: {lines} lines")
    assert not long, "\n".join(long)


def _docstring_lines(node: Function) -> int:
    if ast.get_docstring(node) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def test_every_public_name_is_documented() -> None:
    missing = []
    for path, tree in _trees():
        if ast.get_docstring(tree) is None:
            missing.append(_name(path))
        for where, node in _public(tree, ""):
            if ast.get_docstring(node) is None:
                missing.append(f"{_name(path)}:{node.lineno} {where}")
    assert not missing, "no docstring:\n" + "\n".join(missing)


def _public(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public classes, functions and methods; setters and overloads are documented at their first form."""
    for child in node.body:
        if not isinstance(child, Function | ast.ClassDef) or child.name.startswith("_"):
            continue
        decorators = {ast.unparse(d) for d in child.decorator_list}
        if any(d.endswith((".setter", ".deleter", "overload")) for d in decorators):
            continue
        yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from _public(child, f"{prefix}{child.name}.")


def test_names_say_what_a_file_holds() -> None:
    parts = {_name(p): VAGUE & set(p.relative_to(PACKAGE).with_suffix("").parts) for p in FILES}
    assert not {name: found for name, found in parts.items() if found}


def test_no_forbidden_constructs() -> None:
    """No print outside the command line, no assert for users, no pickle, no silent except."""
    found = [f"{_name(p)}:{line} {what}" for p, tree in _trees() for line, what in _forbidden(p, tree)]
    assert not found, "\n".join(found)


def _forbidden(path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            if path != PACKAGE / "cli.py":
                yield node.lineno, "print"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            yield from ((node.lineno, n) for n in names if n.split(".")[0] in PICKLES)
        elif isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            if broad and len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
                yield node.lineno, "except: pass"


def test_readme_lists_every_hyperparameter_with_its_default() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [f"| `{name}` | `{default!r}` |" for name, default in RunConfig().flat().items()]
    missing = [row for row in rows if row not in readme]
    assert not missing, "README.md lacks:\n" + "\n".join(missing)


def test_all_names_exist() -> None:
    names = json.loads(_python("import json, semseg_automl; print(json.dumps(semseg_automl.__all__))"))
    modules = ["datasets", "displays", "space"]
    assert sorted(names) == ["SemanticSegmentor", "SemsegError", "__version__", *modules]
    for name in names:
        assert getattr(semseg_automl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        semseg_automl.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["datasets", "displays", "space"])
def test_public_modules_import_in_every_way(name: str) -> None:
    """As an attribute, as a module, and name by name."""
    code = f"""
import importlib, json, semseg_automl
first = semseg_automl.{name}
import semseg_automl.{name} as second
third = importlib.import_module("semseg_automl.{name}")
from semseg_automl.{name} import *
print(json.dumps([first is second is third, sorted(set(third.__all__) - set(globals()))]))
"""
    assert json.loads(_python(code)) == [True, []]


def test_public_modules_lack_no_name() -> None:
    """Whatever the rooms behind them call public."""
    from semseg_automl.data import datasets
    from semseg_automl.estimator import displays
    from semseg_automl.search import space

    for room in (datasets, displays, space):
        front = getattr(semseg_automl, room.__name__.rpartition(".")[2])
        assert front.__all__ == room.__all__
        assert all(getattr(front, name) is getattr(room, name) for name in room.__all__)


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import semseg_automl", (*HEAVY, "pandas", "sklearn", "numpy")),
        ("import semseg_automl; semseg_automl.SemanticSegmentor()", HEAVY),
        ("from semseg_automl import datasets", HEAVY),
        ("from semseg_automl import space", HEAVY),
        ("from semseg_automl.datasets import make_textures", HEAVY),
        ("import semseg_automl.estimator._use, semseg_automl.estimator._store", UNUSED_IN_PREDICTION),
        (
            "from semseg_automl.data import labels, frame, images, split, datasets",
            ("torch", "lightning", "optuna"),
        ),
    ],
    ids=["import", "construct", "datasets", "space", "from_datasets", "predict", "data"],
)
def test_importing_loads_nothing_heavy(code: str, unwanted: tuple[str, ...]) -> None:
    loaded = json.loads(_python(f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"))
    assert not set(unwanted) & set(loaded)


@pytest.mark.timing
def test_construction_costs_little_more_than_its_bases() -> None:
    """At most 1.3 times ``import sklearn.base, pandas``; medians of five interleaved pairs."""
    clock = "import time; t = time.perf_counter()\n{}\nprint(time.perf_counter() - t)"
    base = clock.format("import sklearn.base, pandas")
    ours = clock.format("import semseg_automl; semseg_automl.SemanticSegmentor()")
    for code in (base, ours):  # fill the disk cache
        _python(code)
    pairs = [(float(_python(base)), float(_python(ours))) for _ in range(5)]
    theirs, mine = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert mine <= 1.3 * theirs, f"{mine:.2f} s against {theirs:.2f} s"
