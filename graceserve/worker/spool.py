"""A request's body: in memory while it is small, then in a temporary file. Shell; used in a worker."""

import io
import tempfile
from typing import IO

MEMORY_BYTES_MAX = 512 * 1024  # waitress's inbuf_overflow


class Spool:
    """Written by the connection, then read by the app. Its owner closes it."""

    __slots__ = ("_file", "_in_memory", "size_bytes")

    def __init__(self) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._in_memory = True
        self.size_bytes = 0

    def write(self, data: bytes | bytearray) -> None:
        """Raises `OSError` if the disk is full."""
        self.size_bytes += len(data)
        if self._in_memory and self.size_bytes > MEMORY_BYTES_MAX:
            self._move_to_disk()
        self._file.write(data)

    @property
    def in_memory(self) -> bool:
        """Whether it is small yet."""
        return self._in_memory

    def content(self) -> bytes:
        """All that was written, while it is in memory."""
        assert isinstance(self._file, io.BytesIO)
        return self._file.getvalue()

    def rewound(self) -> IO[bytes]:
        """The body from its first byte, with all that PEP 3333 asks of `wsgi.input`. Raises `OSError` as `write`."""
        self._file.seek(0)  # flushes
        return self._file

    def close(self) -> None:
        """Idempotent. A disk that is full at the last flush is no news to anybody any more."""
        try:
            self._file.close()
        except OSError:
            pass

    def _move_to_disk(self) -> None:
        memory = self._file
        assert isinstance(memory, io.BytesIO)
        self._file = tempfile.TemporaryFile(prefix="graceserve-body-")  # noqa: SIM115  # closed by `close`
        self._in_memory = False
        self._file.write(memory.getbuffer())
        memory.close()
