"""Import walls: pure modules ask no operating system, the master never loads what the app's processes run on.

Two checks. What a module itself imports is read from its source. What comes along with it is seen in `sys.modules` of a
fresh interpreter: argparse and json bring `os` and `time`, which are in every interpreter anyhow, but nobody brings a
socket, a thread or an event loop.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "graceserve"

PURE = (
    "graceserve.errors", "graceserve.address", "graceserve.options", "graceserve.record", "graceserve.config",
    "graceserve.paths", "graceserve.launch", "graceserve.release", "graceserve.envfile", "graceserve.status_text",
    "graceserve.wire.messages",
    *sorted(f"graceserve.fleet.{path.stem}" for path in (PACKAGE / "fleet").glob("[a-z]*.py")),
    "graceserve.worker.lifecycle", "graceserve.worker.environ", "graceserve.worker.patience",
    "graceserve.worker.tempo",
    "graceserve.worker.forwarded", "graceserve.worker.proxyproto",
    "graceserve.worker.access_format",
    "graceserve.worker.http.policy", "graceserve.worker.http.port", "graceserve.worker.http.reader",
    "graceserve.worker.http.chunked", "graceserve.worker.http.response", "graceserve.worker.http.memo",
    "graceserve.torture.target", "graceserve.torture.options", "graceserve.torture.answers", "graceserve.torture.tally",
    "graceserve.torture.report",
)  # fmt: skip
ASKS_THE_SYSTEM = {
    "os", "socket", "time", "signal", "logging", "random", "asyncio", "threading", "subprocess", "select", "selectors",
    "uvloop", "tempfile", "shutil", "pathlib", "io", "fcntl", "ctypes",
}  # fmt: skip
ALWAYS_THERE = {"os", "time", "io"}  # the interpreter starts with them

# The master lives long and is one: whatever it loads stays in memory, and may start threads or hold descriptors.
MASTER = ("graceserve.cli", "graceserve.config", "graceserve.release", "graceserve.logs", "graceserve.master.main",
          "graceserve.master.reexec")  # fmt: skip
NOT_IN_THE_MASTER = {
    "uvloop", "asyncio", "ssl", "h11", "httptools", "concurrent.futures", "multiprocessing", "email", "http", "urllib",
    "tempfile", "shutil", "pathlib", "subprocess", "importlib.metadata", "pdb", "unittest", "lzma", "bz2", "zipfile",
    "graceserve.client", "graceserve.status_text", "graceserve.worker", "graceserve.template", "graceserve.worker.main",
    "tomllib", "graceserve.torture",
}  # fmt: skip
OWN_CLIENT = {"asyncio", "uvloop", "h11", "graceserve.master", "graceserve.worker", "graceserve.fleet"}


def modules_after(*names: str) -> set[str]:
    """What a fresh interpreter has loaded after these imports, without what it begins with."""
    program = (
        "import sys, json; before = set(sys.modules)\n"
        f"for name in {names!r}: __import__(name)\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def source_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"


def imported_by(module: str) -> set[str]:
    """All modules that a source names in its imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source_of(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module stands"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_only_pure_ones(module: str) -> None:
    imported = imported_by(module)
    assert {name.partition(".")[0] for name in imported} & ASKS_THE_SYSTEM == set()
    own = {name for name in imported if name.startswith("graceserve.") and source_of(name).is_file()}
    packages = {"graceserve.wire", "graceserve.fleet", "graceserve.worker", "graceserve.worker.http"}
    assert own <= set(PURE) | packages


@pytest.mark.parametrize("module", PURE)
def test_nothing_comes_along_with_a_pure_module(module: str) -> None:
    assert modules_after(module) & (ASKS_THE_SYSTEM - ALWAYS_THERE) == set()


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_says_so(module: str) -> None:
    assert "Pure" in (ast.get_docstring(ast.parse(source_of(module).read_text())) or "")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE).with_suffix(""))
)
def test_every_module_says_what_it_is(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    if path.name != "__init__.py":
        assert len(set(re.findall(r"\b(?:Pure|Shell)\b", doc))) == 1, "a module is pure or shell, and says which"


def test_the_master_loads_none_of_the_app_s_machinery() -> None:
    loaded = modules_after(*MASTER)
    assert loaded & NOT_IN_THE_MASTER == set()
    assert "graceserve.master.main" in loaded


def test_a_command_loads_no_server() -> None:
    loaded = modules_after("graceserve.cli", "graceserve.client")
    assert {name for name in loaded if name in OWN_CLIENT or name.startswith("graceserve.master.")} == set()


def test_the_walls_are_seen() -> None:
    """This test's own means work: a shell module is told from a pure one."""
    assert "os" in {name.partition(".")[0] for name in imported_by("graceserve.files")}
    assert "socket" in modules_after("graceserve.wire.channel")
    assert "asyncio" in modules_after("asyncio")
