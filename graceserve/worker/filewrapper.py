"""`wsgi.file_wrapper`: files that the app returns, and what the kernel can send of them. Shell; used in a worker."""

import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

FILE_BLOCK_BYTES = 65_536  # where the app names no size
_PLAIN = (io.FileIO, io.BufferedReader, io.BufferedRandom)


class FileWrapper(Iterable[bytes]):
    """PEP 3333, "Optional Platform-Specific File Handling": the file in blocks, from where it stands."""

    def __init__(self, file: IO[bytes], block_bytes: int = FILE_BLOCK_BYTES) -> None:
        self.file = file
        self.block_bytes = block_bytes
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.file.read(self.block_bytes), b"")


@dataclass(slots=True)
class FilePart:
    """A piece of a response that is still in its file. Whoever sends it counts down `left_bytes` and up `offset`;
    what is left at the end was not there."""

    fd: int
    offset: int
    left_bytes: int


def part_of(wrapper: FileWrapper) -> FilePart | None:
    """What is left of a regular file; None of anything else, which is to be read.

    Of Python's own file objects only: others may have a descriptor whose bytes are not theirs (gzip, a cipher).
    """
    file = wrapper.file
    if type(getattr(file, "raw", file)) is not io.FileIO or type(file) not in _PLAIN:
        return None
    try:
        fd = file.fileno()
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # /proc/version says 0
            return None
        offset = file.tell()  # not the descriptor's own, which is ahead where the file object buffers
    except (OSError, ValueError):  # a closed file
        return None
    return FilePart(fd, offset, max(0, status.st_size - offset))
