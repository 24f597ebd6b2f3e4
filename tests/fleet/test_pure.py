"""The core imports nothing that could see a clock, a process or a random number."""

import ast
from pathlib import Path

import graceserve.fleet

FORBIDDEN = {"os", "socket", "time", "signal", "logging", "random", "asyncio", "threading", "subprocess", "select"}
ALLOWED = ("graceserve.fleet.", "graceserve.wire.messages")


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_imports() -> None:
    files = sorted(Path(graceserve.fleet.__file__).parent.glob("*.py"))
    assert len(files) > 8
    for path in files:
        for name in imports(path):
            assert name.split(".")[0] not in FORBIDDEN, f"{path.name} imports {name}"
            assert not name.startswith("graceserve") or name.startswith(ALLOWED), f"{path.name}: {name}"


def test_files_can_be_read_in_a_sitting() -> None:
    for path in Path(graceserve.fleet.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) < 400, path.name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 40, f"{path.name}: {node.name}"
