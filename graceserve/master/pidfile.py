"""The pid file. Shell; the lock on it (flock(2)), not its content, says whether another master uses it.

The lock belongs to the open file, so it survives a re-exec and ends with the process, however it ends. A pid number
that a container reuses after a crash is therefore no obstacle.
"""

import fcntl
import os

from graceserve.errors import OperatorError


class PidFile:
    """Held for the life of the master."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def take(cls, path: str) -> "PidFile":
        """Lock the file and write our pid. Raises `OperatorError` if another master holds it; it stays as it is."""
        while True:
            fd = _locked(path)
            if _same_file(fd, path):
                break
            os.close(fd)  # its last owner removed it between our open and our lock
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, fd)

    def remove(self) -> None:
        """Unlink the file if it is still the one that we hold, and let go of the lock."""
        if _same_file(self.fd, self.path):
            try:
                os.unlink(self.path)
            except OSError:
                pass  # its directory is not ours to write any more (--user); the lock goes all the same
        os.close(self.fd)


def _locked(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OperatorError(f"--pid {path}: {error.strerror}; choose a file in a writable directory") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        other = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise OperatorError(
            f"--pid {path}: a running master (pid {other}) holds it; stop that one or choose another file"
        ) from None
    return fd


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
