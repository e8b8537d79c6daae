"""The package's parts import downwards only, no modules import each other in a circle, and files stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mlp_lightning"
GROUND = {"errors", "invocation", "messages", "printable", "memory", "files"}
# The parts that each part may import, beside its own modules.
ALLOWED = {
    **dict.fromkeys(sorted(GROUND), GROUND),
    "nn": GROUND,
    "optim": GROUND | {"nn"},
    "data": GROUND | {"nn", "optim"},
    "engines": GROUND | {"nn", "optim", "data"},
    "training": GROUND | {"nn", "optim", "data", "engines", "figures"},
    "loop": GROUND | {"nn", "optim", "data", "engines"},
    "epochs": GROUND | {"data", "engines", "loop"},
    "sklearn": GROUND | {"nn", "optim", "data", "engines", "training", "loop", "epochs"},
    "notebook": GROUND
    | {"nn", "optim", "data", "engines", "training", "predicting", "figures", "commands", "loop", "epochs"},
    "predicting": GROUND | {"nn", "data"},
    "figures": GROUND,
    "commands": GROUND | {"nn", "optim", "data", "engines", "training", "predicting", "figures"},
    "cli": GROUND | {"nn", "optim", "data", "engines", "training", "predicting", "figures", "commands"},
    "__main__": {"cli"},
    "__init__": {"predicting", "notebook", "invocation"},
}
MOST_LINES = 250
LONG = {
    "cli/main.py": "LightningCLI's hooks, which share the state of one command",
    "commands/draw/page.html": "one page, served as one file",
    "data/batches.py": "one class: how samples become minibatches",
    "data/module.py": "Lightning's hooks of a data module and their options",
    "data/sources/torchvision_sets.py": "two file formats of torchvision with one set of errors",
    "engines/engine.py": "the step that the engines share, from forward to constraints",
    "engines/finiteness.py": "one state machine: when a non-finite step is found, and what then happens",
    "engines/native/src/passes_bf16.c": "forward and backward, side by side",
    "engines/native/src/passes_f32.c": "forward and backward, side by side",
    "engines/triton/kernels.py": "every kernel, so that forward and backward are read together",
    "engines/triton/step.py": "the launches of one step, in order",
    "training/configured.py": "one constructor with every option of model and its documentation",
    "training/module.py": "Lightning's hooks, which share the state of one training",
}


def modules(package: Path) -> dict[str, Path]:
    """Files by the dotted name under which they are imported."""
    return {name_of(package, path): path for path in sorted(package.rglob("*.py"))}


def name_of(package: Path, path: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(package: Path) -> dict[str, set[str]]:
    """The package's modules that each of its modules imports, in functions too."""
    known = modules(package)
    return {name: set(_imported(ast.parse(path.read_text()), name, known)) for name, path in known.items()}


def _imported(tree: ast.AST, module: str, known: dict[str, Path]) -> Iterator[str]:
    for node in _run(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name and name != module:
                yield name


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: not those of ``if TYPE_CHECKING``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _run(other)
        else:
            yield from _run(child)


def circles(edges: dict[str, set[str]]) -> list[str]:
    """A line for each module that comes back to itself by what it imports."""
    found = []
    for start in sorted(edges):
        reached, paths = set(), [[start]]
        while paths:
            path = paths.pop(0)
            for name in sorted(edges[path[-1]]):
                if name == start:
                    found.append(" → ".join([*path, start]))
                    paths = []
                    break
                if name not in reached:
                    reached.add(name)
                    paths.append([*path, name])
    return found


def upward(edges: dict[str, set[str]], allowed: dict[str, set[str]]) -> list[str]:
    """A line for each import of a part that the module's part may not import."""
    return [
        f"{module} → {name}"
        for module, names in sorted(edges.items())
        for name in sorted(names)
        if _part(name) != _part(module) and _part(name) not in allowed[_part(module)]
    ]


def _part(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_no_circle() -> None:
    assert circles(imports(PACKAGE)) == []


def test_no_upward_import() -> None:
    assert upward(imports(PACKAGE), ALLOWED) == []


def test_allowed_imports_run_one_way() -> None:
    """The table itself allows no two parts to import each other, apart from the ground floor."""
    edges = {part: names - GROUND for part, names in ALLOWED.items() if part not in GROUND}
    assert circles(edges) == []


def test_every_part_is_listed() -> None:
    assert {_part(module) for module in imports(PACKAGE)} == set(ALLOWED)


def test_files_are_short() -> None:
    """A file leaves the list once it is short."""
    paths = [path for suffix in ("py", "c", "h", "html") for path in PACKAGE.rglob(f"*.{suffix}")]
    long = {path.relative_to(PACKAGE).as_posix() for path in paths if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == set(LONG)


@pytest.mark.parametrize(
    ("high", "low", "found"),
    [
        ("from package.nn.low import a", "", ""),
        ("import package.nn.low", "", ""),
        ("", "import package.cli.high", "package.nn.low → package.cli.high"),
        ("", "from package.cli import high", "package.nn.low → package.cli.high"),
        ("", "def f():\n    from package.cli.high import a", "package.nn.low → package.cli.high"),
        ("", "if TYPE_CHECKING:\n    from package.cli.high import a", ""),
        ("", "if TYPE_CHECKING:\n    pass\nelse:\n    import package.cli.high", "package.nn.low → package.cli.high"),
    ],
)
def test_imports_are_found(high: str, low: str, found: str, tmp_path: Path) -> None:
    edges = imports(_package(tmp_path, high, low))
    assert upward(edges, {"cli": {"nn"}, "nn": set(), "__init__": set()}) == ([found] if found else [])


@pytest.mark.parametrize("low", ["import package.cli.high", "def f():\n    from package.cli import high"])
def test_circles_are_found(low: str, tmp_path: Path) -> None:
    edges = imports(_package(tmp_path, "from package.nn.low import a", low))
    assert circles(edges) == [
        "package.cli.high → package.nn.low → package.cli.high",
        "package.nn.low → package.cli.high → package.nn.low",
    ]


def _package(folder: Path, high: str, low: str) -> Path:
    for part, name, text in (("cli", "high", high), ("nn", "low", low)):
        path = folder / "package" / part / f"{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        (path.parent / "__init__.py").write_text("")
    (folder / "package" / "__init__.py").write_text("")
    return folder / "package"
