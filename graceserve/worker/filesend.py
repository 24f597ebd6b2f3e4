"""Sending a file's bytes from the page cache (sendfile(2)), at the client's pace. Shell; used in a worker's loop."""

import asyncio
import os
import socket
from collections.abc import Callable

from graceserve.worker.filewrapper import FilePart

BYTES_A_TURN = 1 << 20  # before other connections have their turn


class FileSender:
    """Sends one part over a connection whose transport holds nothing unsent.

    The loop lets nobody else wait for a transport's own descriptor, therefore it works on a duplicate.
    """

    __slots__ = ("_done", "_fd", "_loop", "_part")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, part: FilePart, done: Callable[[bool], None]
    ) -> None:
        """`done(ok)` comes once: False if the client is gone. A file that ends early is `ok`; the part tells."""
        self._loop = loop
        self._part = part
        self._done = done
        self._fd = os.dup(sock.fileno())
        loop.add_writer(self._fd, self._push)

    def stop(self) -> None:
        """Forget it; `done` is not called any more. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _push(self) -> None:
        part = self._part
        try:
            sent = os.sendfile(self._fd, part.fd, part.offset, min(part.left_bytes, BYTES_A_TURN))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EPIPE, ECONNRESET; or EIO of the file: the client can't be given the rest either way
            self._end(False)
            return
        part.offset += sent
        part.left_bytes -= sent
        if not part.left_bytes or not sent:
            self._end(True)

    def _end(self, ok: bool) -> None:
        self.stop()
        self._done(ok)
