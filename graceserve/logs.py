"""Log lines, `event key=value` or JSON. Shell; used in master, template and worker.

A log never blocks, and never raises, whatever becomes of its file: the master must act on a TERM also while a full pipe
hangs off its stderr. Each write is preceded by a `poll` that does not wait, and is no longer than PIPE_BUF, for which a
writable pipe has room. A line that finds no room is dropped, and the next one says `dropped=N`.
"""

import json as _json
import os
import re
import select
import time
from collections.abc import Callable
from typing import Any

PIECE_BYTES_MAX = 4096  # PIPE_BUF: a pipe that polls writable takes it whole, and unmixed with other processes' lines
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PLAIN = re.compile(r"[^\s\"=\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # ends a line, or steers a terminal
_UNSAFE_IN_DETAIL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _Sink:
    """Where the lines of a log and of all that were bound from it go. Only `Log` uses it."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.owned = False  # opened here, so ours to close
        self.problem = ""
        self.dropped = 0
        self.torn = False  # the last line was cut short
        if path != "-":
            self.open()

    def open(self) -> None:
        """Open `path` (again); if that fails, what was used before stays in use and `problem` says why."""
        try:
            # O_NONBLOCK: opening a FIFO without a reader must not wait, nor may a write to it
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
            fd = os.open(self.path, flags, 0o644)
        except (OSError, ValueError) as error:
            self.problem = f"{getattr(error, 'strerror', None) or error}"
            return
        old, was_owned = self.fd, self.owned
        self.fd, self.owned, self.problem, self.torn = fd, True, "", False
        if was_owned:
            _close(old)

    def chown(self, uid: int, gid: int) -> None:
        """The file, if it was opened here."""
        if self.owned:
            os.fchown(self.fd, uid, gid)

    def close(self) -> None:
        """Give the descriptor back."""
        if self.owned:
            _close(self.fd)
            self.fd, self.owned = -1, False

    def write(self, line: Callable[[int], bytes]) -> None:
        """Write `line(dropped)`, or count it as dropped."""
        data = line(self.dropped)
        if self.torn:
            data = b"\n" + data
        done = 0
        for piece in _pieces(data):
            written = self._put(piece)
            done += written
            if written < len(piece):
                self.dropped += 1
                break
        else:
            self.dropped = 0
        if done:
            self.torn = data[done - 1] != ord("\n")

    def _put(self, piece: bytes) -> int:
        """How many bytes were written; 0 if there was no room, or if that failed."""
        try:
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            ready = poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return 0
            return os.write(self.fd, piece)
        except (OSError, ValueError, OverflowError):  # EPIPE, ENOSPC, EIO, EAGAIN, a closed descriptor
            return 0


class Log:
    """Events, each with the fields that it was bound to and its own.

    `level` is the lowest that is written. `path` other than "-" is opened for appending; if that fails, lines go to
    `fd` and `problem` says why.
    """

    def __init__(self, fd: int = 2, json: bool = False, level: str = "info", path: str = "-", **context: Any) -> None:
        self._sink = _Sink(fd, path)
        self._json = json
        self._lowest = _LEVELS.get(level, 20)
        self._context = context

    def bind(self, **context: Any) -> "Log":
        """A log on the same file whose lines carry these fields, too."""
        other = Log.__new__(Log)
        other._sink, other._json, other._lowest = self._sink, self._json, self._lowest
        other._context = {**self._context, **context}
        return other

    @property
    def problem(self) -> str:
        """Why `path` could not be opened; empty if it could, or is "-"."""
        return self._sink.problem

    def chown(self, uid: int, gid: int) -> None:
        """Give the file that was opened here to the user that the process is about to become."""
        self._sink.chown(uid, gid)

    def reopen(self) -> None:
        """Open `path` again (log rotation). The file in use stays in use if that fails."""
        if self._sink.path != "-":
            self._sink.open()

    def close(self) -> None:
        """Close the file if it was opened here: for a forked child with a log of its own. Later lines are dropped."""
        self._sink.close()

    def debug(self, event: str, detail: str = "", **fields: Any) -> None:
        """For whoever develops graceserve."""
        self._write("debug", event, detail, fields)

    def info(self, event: str, detail: str = "", **fields: Any) -> None:
        """As it should be. `detail` is a text of several lines."""
        self._write("info", event, detail, fields)

    def warning(self, event: str, detail: str = "", **fields: Any) -> None:
        """Something for the operator to look at; the service goes on."""
        self._write("warning", event, detail, fields)

    def error(self, event: str, detail: str = "", **fields: Any) -> None:
        """Something did not work."""
        self._write("error", event, detail, fields)

    def _write(self, level: str, event: str, detail: str, fields: dict[str, Any]) -> None:
        if _LEVELS[level] < self._lowest:
            return
        stamp, values = _stamp(time.time()), {**self._context, **fields}
        made = json_line if self._json else text_line

        def line(dropped: int) -> bytes:
            told = {**values, "dropped": dropped} if dropped else values
            return made(stamp, level, event, detail, told).encode("utf-8", "backslashreplace")

        self._sink.write(line)


def text_line(stamp: str, level: str, event: str, detail: str, fields: dict[str, Any]) -> str:
    """`stamp LEVEL event key=value ...`, then the detail's lines, indented."""
    words = [stamp, level.upper().ljust(5), value_text(event)]
    words += [f"{key}={value_text(value)}" for key, value in fields.items()]
    lines = [" ".join(words)]
    lines += ["    " + _UNSAFE_IN_DETAIL.sub(_escaped, text) for text in detail.rstrip("\n").split("\n") if detail]
    return "\n".join(lines) + "\n"


def json_line(stamp: str, level: str, event: str, detail: str, fields: dict[str, Any]) -> str:
    """The same as one JSON object."""
    row = {"time": stamp, "level": level, "event": event, **fields}
    if detail:
        row["detail"] = detail
    return _json.dumps(row, default=str) + "\n"


def value_text(value: Any) -> str:
    """A value as it stands behind `key=`: bare, or in double quotes with JSON's escapes."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case list() | tuple():
            text = ",".join(str(item) for item in value)
        case dict():
            text = _json.dumps(value, default=str, separators=(",", ":"))
        case _:
            text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + _UNSAFE.sub(_escaped, text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or f"\\u{ord(char):04x}"


def _stamp(now: float) -> str:
    milliseconds = int(now * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)) + f".{milliseconds % 1000:03d}Z"


def _pieces(data: bytes) -> list[bytes]:
    """Cut behind line ends where there are any: other processes' lines then come between lines, not into them."""
    if len(data) <= PIECE_BYTES_MAX:
        return [data]
    pieces = []
    while data:
        cut = len(data)
        if cut > PIECE_BYTES_MAX:
            cut = data.rfind(b"\n", 0, PIECE_BYTES_MAX) + 1 or PIECE_BYTES_MAX
        pieces.append(data[:cut])
        data = data[cut:]
    return pieces


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass
