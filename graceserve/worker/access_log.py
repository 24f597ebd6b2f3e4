"""The access log's file. Shell; used in a worker, on its loop thread.

Lines are collected and written together, one write for many requests. A write has whole lines only, so that those of
several workers never mix: to a file (O_APPEND) it has all there are, to a pipe no more than PIPE_BUF, which a pipe
takes whole or not at all. A log never waits for a reader, and never raises. What finds no room is tried again; once
there is too much of it, whole lines are dropped, and counted.
"""

import errno
import os
import select
import stat
from dataclasses import dataclass

from graceserve.logs import PIECE_BYTES_MAX
from graceserve.worker.access_format import Entry, compile_format, shortened

FLUSH_S = 1.0  # a line waits no longer for others
KEPT_BYTES_MAX = 262_144  # lines for which there is no room, or no space on the disk; what is more is dropped
_FILE_FLUSH_BYTES = 65_536
_PIPE_FLUSH_BYTES = 4 * PIECE_BYTES_MAX  # well below what a pipe holds (64 kB), which other workers fill, too
_FILE_LINE_BYTES_MAX = 131_072  # such a line is still within what may be kept
_STDOUT = 1
_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # a FIFO without a reader: an error, not a wait


class AccessLog:
    """Arm a timer of `FLUSH_S` when `add` or `flush` returns True; it calls `flush`. Call `close` at the end."""

    def __init__(self, path: str, format: str) -> None:
        """`path` "-" is stdout. Raises `ValueError` for a bad format. If the file can't be opened, `problem` says why;
        lines are then kept for a `reopen`, as many as may be."""
        self.problem = ""  # why the last opening or writing failed
        self._path = path
        self._format = compile_format(format)
        self._char_bytes_max = 1 if format.isascii() else 4  # lines are ASCII but for the format's own text
        self._target: _Target | None = None
        self._line_chars_max = PIECE_BYTES_MAX
        self._lines: list[str] = []  # without the last line end
        self._kept = 0  # characters in them
        self._credit = _PIPE_FLUSH_BYTES  # characters that may come before the next try to write
        self._dropped = 0
        self._armed = False
        self._open()

    @property
    def due(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._lines)

    def add(self, entry: Entry) -> bool:
        """Whether to arm the timer. There is no system call in it, but where many lines have come together."""
        try:
            line = self._format(entry)
            if len(line) >= self._line_chars_max:
                line = shortened(self._format, entry, self._line_chars_max - 1)
        except Exception as error:  # the environ is the app's, too: who knows what it has put there
            self._dropped += 1
            self.problem = type(error).__name__
            return False
        size = len(line) + 1
        if self._kept + size > KEPT_BYTES_MAX:
            self._dropped += 1
        else:
            self._lines.append(line)
            self._kept += size
        self._credit -= size
        if self._credit < 0:
            self._write()
        armed, self._armed = self._armed, True
        return not armed

    def flush(self) -> bool:
        """Write what there is. Whether something is left: then arm the timer again."""
        self._write()
        self._armed = self.due
        return self._armed

    def take_dropped(self) -> int:
        """How many lines were dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def reopen(self) -> bool:
        """Flush, and open the file again (log rotation). False if that failed: `problem` says why, and the file in use
        stays in use."""
        self._write()
        return self._path == "-" or self._open()

    def close(self) -> None:
        """Flush, and drop what finds no room."""
        self._write()
        self._dropped += _count(self._lines)
        self._lines, self._kept = [], 0
        if self._target is not None:
            self._target.close()
            self._target = None

    def _open(self) -> bool:
        try:
            target = _stdout() if self._path == "-" else _file(self._path)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            self.problem = _reason(error)
            return False
        if self._target is not None:
            self._target.close()
        self._target, self.problem = target, ""
        self._credit = target.flush_bytes
        self._line_chars_max = target.line_bytes_max // self._char_bytes_max
        return True

    def _write(self) -> None:
        """Write, and keep what found no room."""
        if not self._lines or self._target is None:
            return
        data = ("\n".join(self._lines) + "\n").encode()
        done, self.problem = self._target.put(data)
        rest = data[done:]
        if done and data[done - 1] != ord("\n"):  # a full disk took a part: end that line, its own rest is lost
            end = data.index(b"\n", done)
            rest = data[end:]
            self._dropped += end > done
        self._lines = [rest[:-1].decode()] if rest else []
        self._kept = len(rest)
        self._credit = self._target.flush_bytes if not rest else _PIPE_FLUSH_BYTES


@dataclass(frozen=True, slots=True)
class _Target:
    """An open file, pipe, socket or terminal. One that was not opened here is shared, and its writes may wait."""

    fd: int
    owned: bool  # opened here, so ours to close
    is_file: bool

    @property
    def flush_bytes(self) -> int:
        return _FILE_FLUSH_BYTES if self.is_file else _PIPE_FLUSH_BYTES

    @property
    def line_bytes_max(self) -> int:
        """With the line end. A longer one would not go into a pipe in one piece."""
        return _FILE_LINE_BYTES_MAX if self.is_file else PIECE_BYTES_MAX

    def put(self, data: bytes) -> tuple[int, str]:
        """How many bytes were written, and why not more."""
        write = os.write if self.owned or self.is_file else _write_now
        done = 0
        while done < len(data):
            end = len(data) if self.is_file else _piece_end(data, done)
            try:
                written = write(self.fd, data[done:end])
            except OSError as error:  # EAGAIN, ENOSPC, EPIPE, EIO, a closed descriptor
                return done, _reason(error)
            if not written:
                return done, "no room"
            done += written
        return done, ""

    def close(self) -> None:
        if self.owned:
            try:
                os.close(self.fd)
            except OSError:  # closed all the same: close(2)
                pass


def _file(path: str) -> _Target:
    fd = os.open(path, _FLAGS | os.O_APPEND | os.O_CREAT, 0o644)
    return _Target(fd, owned=True, is_file=stat.S_ISREG(os.fstat(fd).st_mode))


def _stdout() -> _Target:
    """Other processes have the same one, so it must stay a blocking descriptor. But a pipe can be opened anew."""
    is_file = stat.S_ISREG(os.fstat(_STDOUT).st_mode)
    if not is_file:
        try:
            return _Target(os.open(f"/proc/self/fd/{_STDOUT}", _FLAGS), owned=True, is_file=False)
        except OSError:  # a socket, as journald's; another user's pipe, as in a container
            pass
    return _Target(_STDOUT, owned=False, is_file=is_file)


def _write_now(fd: int, piece: bytes) -> int:
    """How many bytes were written without waiting, whatever the descriptor's own mode is."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    ready = poll.poll(0)
    if not ready or not ready[0][1] & select.POLLOUT:
        return 0
    try:
        return os.pwritev(fd, [piece], -1, os.RWF_NOWAIT)  # another worker may have written since the poll
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return os.write(fd, piece)  # a pipe before Linux 6.5: rely on the poll


def _piece_end(data: bytes, start: int) -> int:
    """Behind the last line that ends within PIECE_BYTES_MAX."""
    end = start + PIECE_BYTES_MAX
    return len(data) if end >= len(data) else data.rfind(b"\n", start, end) + 1 or end


def _count(chunks: list[str]) -> int:
    return sum(len([line for line in chunk.split("\n") if line]) for chunk in chunks)


def _reason(error: Exception) -> str:
    return f"{getattr(error, 'strerror', None) or error}"
