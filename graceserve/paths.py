"""Absolute paths, and following their symlinks once. Pure over `Files`; used by `release`.

A deploy flips a symlink with rename(2), at any moment. Whoever asks the kernel twice may get an answer from each
release. So a reload has one `Resolver`, which reads each symlink once and keeps what it said: all that goes through it
sees one release.
"""

from typing import Protocol

from graceserve.errors import OperatorError

HOPS_MAX = 40  # symlinks in one path, as the kernel's (path_resolution(7)); more is a loop


class Files(Protocol):
    """Questions about paths. None of them raises but `read_text` and `cwd`, which raise `OSError`."""

    def readlink(self, path: str) -> str | None:
        """A symlink's text, None if `path` is none (or is not there)."""

    def is_dir(self, path: str) -> bool:
        """Whether it is a directory, symlinks followed."""

    def is_file(self, path: str) -> bool:
        """Whether it is a regular file, symlinks followed."""

    def is_executable(self, path: str) -> bool:
        """Whether it is a regular file that this process may execute."""

    def is_same(self, left: str, right: str) -> bool:
        """Whether both are the same file or directory: equal device and inode."""

    def read_text(self, path: str) -> str:
        """UTF-8. Raises `OSError` or `UnicodeDecodeError`."""

    def cwd(self) -> str:
        """The physical working directory. Raises `OSError` if it was removed."""


def join(base: str, path: str) -> str:
    """`path` seen from `base`; an absolute one is itself."""
    return path if path.startswith("/") else f"{base.rstrip('/')}/{path}" if path else base


def parent(path: str) -> str:
    """The directory that an absolute path's last name is in."""
    return path.rstrip("/").rpartition("/")[0] or "/"


def base(path: str) -> str:
    """The last name of a path."""
    return path.rstrip("/").rpartition("/")[2]


def within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or below it; both absolute and resolved."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


class Resolver:
    """Follows symlinks, each read at most once in its life."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._read: dict[str, str | None] = {}

    def resolve(self, path: str) -> str:
        """`path` without symlinks, `.` and `..`; what is not there stays as it is. Raises `OperatorError` on a loop."""
        rest, done, hops = _names(path), "", 0
        while rest:
            name = rest.pop()
            if name == "..":  # the kernel's: the parent of where the symlink led to
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{name}"
            target = self._readlink(here)
            if target is None:
                done = here
                continue
            hops += 1
            if hops > HOPS_MAX:
                raise OperatorError(f"{path}: its symlinks lead in a circle (at {here}); correct them")
            rest += _names(target)
            if target.startswith("/"):
                done = ""
        return done or "/"

    def entry(self, path: str) -> str:
        """The same, but the last name is kept as it is, also if it is a symlink (a venv's `bin/python` is one)."""
        name = base(path)
        return self.resolve(path) if name in ("", ".", "..") else join(self.resolve(parent(path)), name)

    def links_on(self, path: str) -> list[str]:
        """The leading parts of `path`, as it is written, that are symlinks; the shortest first."""
        found, here = [], ""
        for name in reversed(_names(path)):
            here = f"{here}/{name}"
            if name == "..":
                continue
            if self._readlink(self.entry(here)) is not None:
                found.append(here)
        return found

    def _readlink(self, path: str) -> str | None:
        if path not in self._read:
            self._read[path] = self.files.readlink(path)
        return self._read[path]


def _names(path: str) -> list[str]:
    """The names of a path, last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
