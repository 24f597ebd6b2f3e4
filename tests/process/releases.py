"""Sites with releases: `releases/41` with a venv of its own, `current -> releases/41`. Shell; runs in pytest."""

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass

from tests.process.apps import Gate, app_source
from tests.process.stock import REPOSITORY, Stock, link_tree, make_venv

SHEBANG_BYTES_MAX = 127  # the kernel's BINPRM_BUF_SIZE less one; pip writes a /bin/sh trampoline above it

# What uv and pip (for long paths) write in place of a plain `#!` line: a file that is sh and Python at once.
TRAMPOLINE = "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"


@dataclass(frozen=True, slots=True)
class Release:
    """One release: its directory and the directory of its venv."""

    name: str
    directory: str
    venv: str

    @property
    def python(self) -> str:
        """Its interpreter."""
        return os.path.join(self.venv, "bin", "python")

    @property
    def script(self) -> str:
        """Its console script."""
        return os.path.join(self.venv, "bin", "graceserve")

    @property
    def package(self) -> str:
        """Its copy of graceserve."""
        lib = os.path.join(self.venv, "lib")
        return os.path.join(lib, os.listdir(lib)[0], "site-packages", "graceserve")

    def write(self, name: str, text: str) -> str:
        """A file in the release; returns its path."""
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, text)
        return path

    def remove(self) -> None:
        """As a clean-up script does with an old release."""
        shutil.rmtree(self.directory)


class Site:
    """A directory as an operator lays it out. `current` is the link that a deploy flips."""

    def __init__(self, root: str, stock: Stock) -> None:
        self.root = os.path.realpath(root)
        self.stock = stock
        self.current = os.path.join(self.root, "current")
        self.gates: list[Gate] = []
        os.makedirs(os.path.join(self.root, "releases"), exist_ok=True)

    def path(self, *names: str) -> str:
        """A path below the site."""
        return os.path.join(self.root, *names)

    def release(
        self, name: str, at_import: str = "", at_end: str = "", stock: Stock | None = None, venv: str = "venv"
    ) -> Release:
        """A new release with a venv of its own that runs the test app."""
        release = self.bare(name, stock, venv)
        release.write("app.py", app_source(name, at_import, at_end))
        release.write("lazy_module.py", f"RELEASE = {name!r}\n")
        return release

    def bare(self, name: str, stock: Stock | None = None, venv: str = "venv", directory: str = "") -> Release:
        """A new release without an app in it."""
        directory = directory or self.path("releases", name)
        release = Release(name, directory, os.path.join(directory, venv))
        fill_venv(release, stock or self.stock)
        return release

    def example(self, name: str, folder: str, stock: Stock | None = None) -> Release:
        """A new release with a copy of `examples/FOLDER` in it."""
        release = self.bare(name, stock)
        shutil.copytree(os.path.join(REPOSITORY, "examples", folder), release.directory, dirs_exist_ok=True)
        return release

    def flip(self, release: Release | str) -> None:
        """Point `current` to the release, atomically."""
        target = release if isinstance(release, str) else os.path.relpath(release.directory, self.root)
        self.link(self.current, target)

    def link(self, path: str, target: str) -> None:
        """A symlink that appears, or is replaced, atomically."""
        fresh = tempfile.mktemp(dir=self.root)
        os.symlink(target, fresh)
        os.rename(fresh, path)

    def gate(self, name: str) -> Gate:
        """A closed gate for the app to wait at."""
        self.gates.append(Gate(self.path(f"gate-{name}")))
        return self.gates[-1]


def fill_venv(release: Release, stock: Stock) -> None:
    """A real venv with the stock's packages, its console script, and a `library` of the release's own version."""
    make_venv(release.venv, "" if stock.python == sys.executable else stock.python)
    packages = os.path.join(release.venv, "lib", f"python{stock.minor}", "site-packages")
    link_tree(stock.packages, packages)
    write_script(release, stock)
    for name in ("library/__init__.py", "library/extra.py"):
        path = os.path.join(packages, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, f"VERSION = {release.name!r}\n")


def write_script(release: Release, stock: Stock, trampoline: bool = False) -> None:
    """The console script as pip would have made it for this venv (or, as a trampoline, uv)."""
    with open(stock.script, encoding="utf-8") as file:
        text = file.read()
    body = re.sub(r"\A#!/bin/sh\n'''exec' .*\n' '''\n|\A#!.*\n", "", text)
    head = f"#!{release.python}\n"
    if trampoline or len(head) > SHEBANG_BYTES_MAX:
        head = TRAMPOLINE.format(python=release.python)
    replace_file(release.script, head + body)
    os.chmod(release.script, 0o755)


def own_graceserve(release: Release) -> str:
    """Give the release a graceserve that may be edited (the stock's files are shared); returns its directory."""
    fresh = release.package + ".copy"
    shutil.copytree(release.package, fresh, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(release.package)
    os.rename(fresh, release.package)
    return release.package


def bump_version(release: Release, version: str) -> None:
    """Another graceserve version in this release."""
    path = os.path.join(own_graceserve(release), "__init__.py")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    bumped, count = re.subn(r'__version__ = "[^"]*"', f'__version__ = "{version}"', text)
    assert count == 1, text
    replace_file(path, bumped)


def replace_file(path: str, text: str) -> None:
    """Write a new file in place of an old one; never through a hard link."""
    fresh = path + ".fresh"
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(fresh, path)
