"""The response head: what the app may say, and its bytes. Pure; used in a worker.

Raises `ValueError` and `TypeError` for what an app must not send, before a byte of it is sent. On the way of every
response: a head that was sent before is not looked at again, and gets the date once a second.
"""

import re
from enum import Enum
from functools import lru_cache
from typing import TypeAlias

Header = tuple[str, str]

_STATUS = re.compile(r"[2-9][0-9][0-9]( [^\x00-\x08\x0a-\x1f\x7f]*)?")  # 1xx is not final: not the app's to send
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]")  # a line end would be a header of its own
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers",
     "transfer-encoding", "upgrade")  # PEP 3333, "Other HTTP Features": the connection is the server's
)  # fmt: skip
NO_BODY = frozenset(("204", "304"))  # RFC 9110 15.3.5, 15.4.5
SERVER = "graceserve"

_PHRASES = {
    400: "Bad Request", 405: "Method Not Allowed", 408: "Request Timeout", 413: "Content Too Large",
    414: "URI Too Long", 417: "Expectation Failed", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}  # fmt: skip


class Framing(Enum):
    """How the client learns where the body ends (RFC 9112 6.3)."""

    NONE = "none"  # there is no body
    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "close"  # HTTP/1.0 without a length: the end of the connection


# Headers of the app that the server would else add.
SAYS_LENGTH, SAYS_DATE, SAYS_SERVER = 1, 2, 4
_RULED = {"content-length": SAYS_LENGTH, "date": SAYS_DATE, "server": SAYS_SERVER}
_MARK = "\0"  # in front of a line that says one of them: no line holds this character itself
LINES_MAX = 512  # that are remembered: most responses repeat most of their lines
LENGTHS_MAX = 1024
Lines: TypeAlias = tuple[str, int, int | None]  # with their ends, SAYS_* together, Content-Length
HEADS_MAX = 256  # that are remembered: many responses of an app begin alike


class Written:
    """The app's status line and headers. Remembered, so the threads of a worker share it."""

    __slots__ = ("_lines", "_says", "bodyless", "dated", "length")

    def __init__(self, lines: bytes, says: int, length: int | None, *, bodyless: bool) -> None:
        self.length = length  # what Content-Length says
        self.bodyless = bodyless  # for its status
        self._lines = lines
        self._says = says
        # A second, what the head is in it, up to the lines that differ, and the same if there are none. `date` sets it.
        self.dated = (-1.0, b"", b"")

    def head(self, own: bytes, unix_s: float) -> bytes:
        """All of the head. `own` are the server's lines about framing and connection."""
        return self.date(unix_s)[1] + own + b"\r\n"

    def date(self, unix_s: float) -> tuple[float, bytes, bytes]:
        """`dated` of this second."""
        dated = self.dated
        if not dated[0] <= unix_s < dated[0] + 1:
            begun = self._lines + _added(self._says, int(unix_s))
            self.dated = dated = float(int(unix_s)), begun, begun + b"\r\n"
        return dated


def begin(status: str, headers: list[Header]) -> Written:
    """The status line and the app's headers, after a look at them. Raises as `status_line` and `write` do."""
    if type(headers) is not list:
        _check_list(headers)
    try:
        return _begin(status, *headers)
    except TypeError:  # what can't be a key of the cache is no text, or no pair of texts, which these explain
        status_line(status)
        write(headers)
        raise


@lru_cache(HEADS_MAX)
def _begin(status: str, *headers: Header) -> Written:
    line = status_line(status)
    text, says, length = write(list(headers))
    if length is not None and status.startswith("204"):
        text = _without_length(list(headers))
    return Written((line + text).encode("latin-1"), says, length, bodyless=status[:3] in NO_BODY)


def length_line(size: int) -> bytes:
    """Content-Length."""
    return b"Content-Length: %d\r\n" % size


@lru_cache(LENGTHS_MAX)
def length_end(size: int) -> bytes:
    """Content-Length, and the end of the head."""
    return b"Content-Length: %d\r\n\r\n" % size


@lru_cache(256)
def status_line(status: str) -> str:
    """The line of a status like "200 OK", with its end."""
    if not isinstance(status, str):
        raise TypeError(f"status must be a str, not {type(status).__name__}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"bad status {status!r}: three digits, a space and a reason, 200 or above")
    status.encode("latin-1")
    return f"HTTP/1.1 {status if len(status) > 3 else status + ' '}\r\n"


def write(headers: list[Header]) -> Lines:
    """The lines, after a look at each: that it is a pair of strings with nothing in it that would end its line or
    speak for the server. Raises `ValueError` also for a Content-Length that is no number, or two of them."""
    _check_list(headers)
    try:
        text = "".join(map(_line, headers))
    except TypeError:  # what can't be a key of the cache is no pair of strings either
        for pair in headers:
            _check_pair(pair)
        raise
    return _ruled(text) if _MARK in text else (text, 0, None)


@lru_cache(LINES_MAX)
def _line(pair: Header) -> str:
    _check_pair(pair)
    name, value = pair
    what = _named(name)
    if not (value.isascii() and value.isprintable()) and _BAD_VALUE.search(value):  # latin-1 and tabs are good
        raise ValueError(f"header {name} has a character that no header may have: {value!r}")
    if what == SAYS_LENGTH and not (value.isascii() and value.isdecimal() and len(value) < 20):
        raise ValueError(f"bad Content-Length {value!r}")
    return f"{_MARK if what else ''}{name}: {value}\r\n"


def _check_list(headers: object) -> None:
    if not isinstance(headers, list):
        raise TypeError(f"headers must be a list, not {type(headers).__name__}")


def _check_pair(pair: object) -> None:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"a header must be a tuple (name, value), not {pair!r}")
    if not isinstance(pair[0], str) or not isinstance(pair[1], str):
        raise TypeError(f"a header's name and value must be str: {pair!r}")


@lru_cache(LINES_MAX)
def _named(name: str) -> int:
    """What a header of this name says for the server, usually nothing (0)."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"bad header name {name!r}")
    if name.lower() in _HOP_BY_HOP:
        raise ValueError(f"header {name} is the server's to send (PEP 3333, hop-by-hop)")
    return _RULED.get(name.lower(), 0)


def _ruled(text: str) -> Lines:
    first, *marked = text.split(_MARK)
    if len(marked) == 1 and marked[0].startswith("Content-Length: "):  # the usual one
        lines = marked[0]
        return first + lines, SAYS_LENGTH, int(lines[16 : lines.find("\r")])
    says, length = 0, None
    for lines in marked:
        name, _, rest = lines.partition(": ")
        what = _named(name)
        if what == SAYS_LENGTH:
            if length is not None:
                raise ValueError("two Content-Length headers")
            length = int(rest[: rest.find("\r")])
        says |= what
    return first + "".join(marked), says, length


def _without_length(headers: list[Header]) -> str:
    """The lines of headers that were looked at, without Content-Length: no 204 and no 1xx has it (RFC 9110 8.6)."""
    return write([(name, value) for name, value in headers if name.lower() != "content-length"])[0]


@lru_cache(8)
def _added(says: int, unix_s: int) -> bytes:
    """The lines that the server adds to nearly every response."""
    date = "" if says & SAYS_DATE else f"Date: {http_date(unix_s)}\r\n"
    server = "" if says & SAYS_SERVER else f"Server: {SERVER}\r\n"
    return f"{server}{date}".encode("ascii")


def early_hints(headers: list[Header]) -> bytes:
    """A 103 response (RFC 8297)."""
    write(headers)
    return f"HTTP/1.1 103 Early Hints\r\n{_without_length(headers)}\r\n".encode("latin-1")


def plain(status: int, unix_s: float, connection: str = "close", *, body: bool = True) -> bytes:
    """A whole response of the server's own: status and its phrase as text. `body`: False for HEAD."""
    phrase = _PHRASES.get(status, "Error")
    text = f"{status} {phrase}\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))]
    if status == 405:
        headers.append(("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))  # RFC 9110 15.5.6
    own = f"Connection: {connection}\r\n" if connection else ""
    head = begin(f"{status} {phrase}", headers).head(own.encode("ascii"), unix_s)
    return head + text.encode() if body else head


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(2)
def http_date(unix_s: int) -> str:
    """RFC 9110 5.6.7, from seconds since 1970."""
    days, second = divmod(unix_s, 86_400)
    year, month, day = _civil(days)
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return f"{_DAYS[(days + 3) % 7]}, {day:02} {_MONTHS[month - 1]} {year} {clock} GMT"


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a day since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms")."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1
