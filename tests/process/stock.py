"""The stock that releases are made from: a real venv for each Python, with graceserve installed by pip from a wheel.

Shell; runs in pytest and in the benchmarks. Releases hard-link the stock's site-packages, so that a release with a venv
of its own costs some 20 ms. For the Python that runs pytest the dependencies are copied from its own environment (no
network); for another one pip fetches them.
"""

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER_NEEDS = ("h11", "uvloop", "setproctitle")
FRAMEWORKS = ("django", "flask")
NOT_COPIED = re.compile(r"(^|/)(locale/(?!en(/|$))[^/]*/|tests?/|__pycache__/)|^\.\./|\.pyc$")


@dataclass(frozen=True, slots=True)
class Stock:
    """A venv to make others from. `python` is the interpreter that it was made with."""

    directory: str
    python: str
    minor: str  # "3.11"

    @property
    def packages(self) -> str:
        """Its site-packages."""
        return os.path.join(self.directory, "lib", f"python{self.minor}", "site-packages")

    @property
    def script(self) -> str:
        """The console script as pip made it, first line included."""
        return os.path.join(self.directory, "bin", "graceserve")


def environ() -> dict[str, str]:
    """What children get of the environment: nothing that changes how Python runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    for name in ("PWD", "OLDPWD", "PORT", "WEB_CONCURRENCY"):
        kept.pop(name, None)
    return kept


def make_venv(directory: str, python: str = "") -> None:
    """A venv without pip, of the Python that runs this or of another one."""
    if python:
        subprocess.run([python, "-m", "venv", "--without-pip", directory], check=True, env=environ())
    else:
        venv.EnvBuilder(with_pip=False, symlinks=True).create(directory)


def build_wheel(source: str, into: str) -> str:
    """A wheel of the repository at `source`. Returns its path."""
    with tempfile.TemporaryDirectory() as copy:  # a copy: builds write beside their source
        for name in ("graceserve", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
            _copy(os.path.join(source, name), os.path.join(copy, name))
        isolation = ["--no-build-isolation"] if _importable("hatchling") else []
        run_pip("wheel", "--no-deps", *isolation, "--wheel-dir", into, copy)
    return os.path.join(into, next(name for name in os.listdir(into) if name.startswith("graceserve-")))


def make_stock(directory: str, wheel: str, python: str = "", frameworks: bool = False) -> Stock:
    """A venv with graceserve from `wheel`, what it needs, and with `frameworks` Django and Flask too."""
    make_venv(directory, python)
    minor = _minor(python) if python else f"{sys.version_info.major}.{sys.version_info.minor}"
    stock = Stock(directory, python or sys.executable, minor)
    own = ["--python", os.path.join(directory, "bin", "python")]
    if python:
        run_pip(*own, "install", "--quiet", wheel, *(FRAMEWORKS if frameworks else ()))
    else:
        _copy_distributions((*SERVER_NEEDS, *(FRAMEWORKS if frameworks else ())), stock.packages)
        run_pip(*own, "install", "--quiet", "--no-index", "--no-deps", wheel)
        compileall.compile_dir(stock.packages, quiet=2)
    return stock


def link_tree(source: str, target: str) -> None:
    """Hard links for the files, new directories."""
    shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)


def run_pip(*argv: str) -> None:
    """Run pip; raises `RuntimeError` with what it said."""
    command = [sys.executable, "-m", "pip", *argv]
    done = subprocess.run(command, capture_output=True, text=True, env=environ(), check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pip {' '.join(argv)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _copy_distributions(names: Iterable[str], target: str) -> None:
    todo, done = list(names), set()
    while todo:
        name = todo.pop()
        distribution = metadata.distribution(name)
        if distribution.name.lower() in done:
            continue
        done.add(distribution.name.lower())
        _copy_files(distribution, target)
        for requirement in distribution.requires or ():
            if ";" not in requirement:  # markers are extras, Windows, or old Pythons
                todo.append(re.split(r"[ <>=!~\[(]", requirement)[0])


def _copy_files(distribution: metadata.Distribution, target: str) -> None:
    home = sysconfig.get_path("platlib")
    for file in distribution.files or ():
        source = str(distribution.locate_file(file))
        if NOT_COPIED.search(str(file)) or not source.startswith(home) or not os.path.isfile(source):
            continue
        path = os.path.join(target, str(file))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy2(source, path)


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def _importable(name: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


def _minor(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, env=environ())
    return done.stdout.strip()
