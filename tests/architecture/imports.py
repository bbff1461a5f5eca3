"""Who imports whom, read from the syntax tree: nothing is executed."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stages", "data")


def modules() -> dict[str, Path]:
    """Every module of ours by dotted name."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {_name(file): file for file in files}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, *, at_start: bool = False) -> set[str]:
    """Dotted names that a file imports, lazily ones included; `at_start` leaves out those inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in _nodes(tree, at_start):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, file)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def _nodes(tree: ast.AST, at_start: bool) -> list[ast.AST]:
    if not at_start:
        return list(ast.walk(tree))
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _typing_only(node):
            found += [node, *_nodes(node, at_start)]
    return found


def _typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _absolute(node: ast.ImportFrom, file: Path) -> str:
    if not node.level:
        return node.module or ""
    package = _name(file).split(".")
    package = package if file.name == "__init__.py" else package[:-1]
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def ours(names: set[str], known: dict[str, Path]) -> set[str]:
    """Modules of ours among imported names: `a.b.thing` is module `a.b` if there is no module `a.b.thing`."""
    found = set()
    for name in names:
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name:
            found.add(name)
    return found


@cache
def graph(*, at_start: bool = False) -> dict[str, set[str]]:
    """Which modules of ours each of them imports."""
    known = modules()
    return {name: ours(imported(file, at_start=at_start), known) - {name} for name, file in known.items()}


def reached(start: str, edges: dict[str, set[str]], *, packages: bool = True) -> set[str]:
    """All modules of ours that are loaded with one; `packages` takes in those above it."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [*edges.get(name, ()), *([name.rpartition(".")[0]] if packages and "." in name else [])]
    return seen


LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_")
"""What torchrun and accelerate write for each process: its place among the others, not a setting."""


def environment_reads(file: Path) -> list[int]:
    """Lines that touch the process's environment, but for the variables of the launcher."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = ("environ", "getenv", "putenv", "environb")
    launcher = {id(node) for call in ast.walk(tree) for node in ast.walk(call) if _asks_launcher(call)}
    found = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in names and id(node) not in launcher]
    return found + [
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and any(alias.name in names for alias in node.names)
    ]


def _asks_launcher(node: ast.AST) -> bool:
    """Whether this is `os.environ.get("RANK", ...)` or `os.environ["RANK"]`."""
    key = node.args[0] if isinstance(node, ast.Call) and node.args else node.slice if isinstance(node, ast.Subscript) else None
    return isinstance(key, ast.Constant) and str(key.value).startswith(LAUNCHER) and "environ" in ast.unparse(node)
