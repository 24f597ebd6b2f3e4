"""The file system as `release` asks it: the kernel's answers to `paths.Files`. Shell; CLI and master."""

import errno
import os
import stat

TEXT_BYTES_MAX = 1_000_000  # of a config or env file


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
        """open(2), read(2). Only a regular file: a FIFO would have the master wait for its writer."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, encoding="utf-8") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if info.st_size > TEXT_BYTES_MAX:
                raise OSError(errno.EFBIG, f"over {TEXT_BYTES_MAX} bytes")
            return file.read()

    def cwd(self) -> str:
        """getcwd(2)."""
        return os.getcwd()
