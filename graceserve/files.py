"""The file system as `release` asks it: the kernel's answers to `paths.Files`. Shell; CLI and master."""

import os
import stat


class RealFiles:
    """The kernel's answers."""

    def readlink(self, path: str) -> str | None:
        """readlink(2)."""
        try:
            return os.readlink(path)
        except OSError:
            return None

    def is_dir(self, path: str) -> bool:
        """stat(2)."""
        return os.path.isdir(path)

    def is_file(self, path: str) -> bool:
        """stat(2)."""
        return os.path.isfile(path)

    def is_executable(self, path: str) -> bool:
        """stat(2) and access(2)."""
        try:
            return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)
        except OSError:
            return False

    def is_same(self, left: str, right: str) -> bool:
        """stat(2), twice."""
        try:
            return os.path.samefile(left, right)
        except OSError:
            return False

    def read_text(self, path: str) -> str:
        """open(2), read(2)."""
        with open(path, encoding="utf-8") as file:
            return file.read()

    def cwd(self) -> str:
        """getcwd(2)."""
        return os.getcwd()
