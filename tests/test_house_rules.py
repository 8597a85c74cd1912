"""The rules of the house, as far as a machine can check them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "calibrant"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for folder in ("src", "tests", "docs", "benchmarks", "recipes")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".jinja", ".yaml", ".yml", ".json", ".jsonl", ".csv", ".txt", ".html", ".svg"}
] + [path for path in sorted(ROOT.iterdir()) if path.is_file() and path.suffix in {".md", ".toml", ".txt", ".cff", ""}]

# Each module may import from its own layer and from those before it.
LAYERS = (
    {"errors", "files", "progress", "endpoint", "objectives", "_version"},
    {"questions", "orders", "sets", "sources", "intake", "prompts", "provenance", "scores"},
    {"metrics"},
    {"scalers", "diagnosis", "importing"},
    {"scoring"},
    {"tuning", "alignment"},
    {"reporting", "ladder"},
    {"restoring", "exporting", "demo"},
    {"cli", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NEEDS_TORCH = {"scoring", "tuning", "alignment", "restoring", "ladder", "demo", "exporting"}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def part_of(module):
    """``calibrant.metrics.bins`` -> ``metrics``; the package's own ``__init__`` is the top of the house."""
    return module.split(".")[1] if "." in module else None


def imports_of(path, *, lazy=True):
    """Modules of the package that a file imports; with ``lazy=False``, when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else top_level(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if inner <= MODULES.keys() else {node.module, *inner}
    return found


def top_level(tree):
    """Nodes outside functions and outside ``if TYPE_CHECKING``."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


ALL = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@ALL
def test_no_function_is_longer_than_60_lines(path):
    """Counted without its decorators and docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1 if ast.get_docstring(node) is not None and len(node.body) > 1 else 0]
            body = node.end_lineno - first.lineno + 1
            signature = node.body[0].lineno - node.lineno
            assert body <= 60, f"{node.name}: {body} lines"
            assert signature <= 60, f"{node.name}: a signature of {signature} lines"


@ALL
def test_imports_point_to_lower_layers_only(path):
    own = part_of(module_of(path))
    if own is None:
        return
    for imported in imports_of(path):
        part = part_of(imported) if imported.startswith("calibrant.") else None
        if part in LEVEL and part != own:
            assert LEVEL[part] <= LEVEL[own], f"{own} imports {part}"


def test_every_module_has_its_layer():
    assert {part_of(name) for name in MODULES if part_of(name)} <= LEVEL.keys()


def test_report_takes_results_never_models():
    for path in SOURCES:
        if part_of(module_of(path)) == "reporting":
            parts = {part_of(name) for name in imports_of(path) if name.startswith("calibrant.")}
            assert not parts & {"scoring", "tuning", "alignment"}, path


def test_only_scoring_tuning_and_what_stands_on_them_import_torch():
    for name, path in MODULES.items():
        if any(imported.split(".")[0] in {"torch", "transformers", "peft"} for imported in imports_of(path)):
            assert part_of(name) in NEEDS_TORCH, name


def test_no_import_goes_round_in_a_circle():
    """Imports at import time, at whole modules; a package's ``__init__`` stands for what it re-exports."""
    graph = {
        name: {imported for imported in imports_of(path, lazy=False) if imported in MODULES} - {name}
        for name, path in MODULES.items()
    }
    done, walking = set(), []

    def walk(name):
        assert name not in walking, " -> ".join([*walking[walking.index(name) :], name])
        if name in done:
            return
        walking.append(name)
        for imported in sorted(graph[name]):
            walk(imported)
        done.add(walking.pop())

    for name in graph:
        walk(name)


def loaded_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted(m for m in sys.modules if '.' not in m))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_neither_torch_nor_matplotlib():
    assert not loaded_by("import calibrant") & {"torch", "transformers", "matplotlib", "datasets", "peft"}


def test_measuring_and_the_command_itself_load_no_torch():
    modules = loaded_by("import calibrant.cli; from calibrant import Scores, measure, compare, diagnose")
    assert not modules & {"torch", "transformers", "matplotlib", "peft"}


def test_starting_a_command_leaves_out_what_takes_half_a_second():
    code = "import sys, calibrant.cli; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_more_than_twenty_public_names_and_each_is_there():
    import calibrant

    names = [name for name in calibrant.__all__ if name != "__version__"]
    assert len(names) == len(set(names)) <= 20
    assert calibrant.__all__ == sorted(calibrant.__all__)
    for name in names:
        assert getattr(calibrant, name) is not None
    assert all(getattr(calibrant, name).__doc__ for name in names)


@ALL
def test_no_pickle(path):
    names = {name.split(".")[0] for name in imports_of(path)}
    assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not re.search(r"\btorch\.(load|save)\(|allow_pickle=True|\bnp\.save\(", path.read_text(encoding="utf-8"))


@ALL
def test_no_error_is_caught_wholesale(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
            again = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
            assert "Exception" not in names, f"line {node.lineno}"
            assert "BaseException" not in names or again, f"line {node.lineno}: caught for good"


@ALL
def test_nothing_is_left_to_do(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    assert "NotImplementedError(" not in text


@ALL
def test_nothing_is_printed_by_the_library(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_path_or_address_of_one_machine(path):
    if path == Path(__file__):
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    places = r"/(?:work|root|Users)/\w|/home/(?!me/)\w|/tmp/\w"
    addresses = r"\b(?:10|127|192\.168)(?:\.\d{1,3}){2,3}\b|\blocalhost:\d|\b[\w.-]+\.internal\b"
    assert not re.findall(f"{places}|{addresses}", text)


def test_the_six_kinds_of_errors_are_one_tree():
    from calibrant import errors

    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(kind, errors.CalibrantError) for kind in kinds)
    raised = errors.ModelError(asked="a", found="b", todo="c")
    assert str(raised).splitlines() == ["asked: a", "found: b", "to do: c"]
