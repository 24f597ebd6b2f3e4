"""The response head: what the app may say, and its bytes. Pure; used in a worker.

Raises `ValueError` and `TypeError` for what an app must not send, before a byte of it is sent. On the way of every
response: a header name is looked up, a value is one test of the interpreter's, and the rest is putting strings together.
"""

import re
from enum import Enum, IntFlag
from functools import lru_cache
from typing import NamedTuple

Header = tuple[str, str]

_STATUS = re.compile(r"[2-9][0-9][0-9]( [^\x00-\x08\x0a-\x1f\x7f]*)?")  # 1xx is not final: not the app's to send
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]")  # a line end would be a header of its own
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers",
     "transfer-encoding", "upgrade")  # PEP 3333, "Other HTTP Features": the connection is the server's
)  # fmt: skip
NO_BODY = frozenset(("204", "304"))  # RFC 9110 15.3.5, 15.4.5
NAMES_MAX = 1024  # that are remembered
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


class Says(IntFlag):
    """Headers of the app that the server would else add."""

    NOTHING = 0
    LENGTH = 1
    DATE = 2
    SERVER = 4


class Written(NamedTuple):
    """An app's headers as text, each line with its end."""

    text: str
    says: int  # `Says`; a plain int, whose tests cost less
    length: int | None  # of Content-Length


_RULED = {"content-length": int(Says.LENGTH), "date": int(Says.DATE), "server": int(Says.SERVER)}
_names: dict[str, tuple[str, int]] = {}  # name -> how its line begins, what it says


def check_status(status: str) -> str:
    """The status line's rest, as "200 OK"."""
    if status in _statuses:
        return status
    if not isinstance(status, str):
        raise TypeError(f"status must be a str, not {type(status).__name__}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"bad status {status!r}: three digits, a space and a reason, 200 or above")
    status.encode("latin-1")
    return status if len(status) > 3 else status + " "


_statuses = frozenset(
    ("200 OK", "201 Created", "202 Accepted", "204 No Content", "206 Partial Content", "301 Moved Permanently",
     "302 Found", "303 See Other", "304 Not Modified", "400 Bad Request", "401 Unauthorized", "403 Forbidden",
     "404 Not Found", "405 Method Not Allowed", "500 Internal Server Error", "503 Service Unavailable")
)  # fmt: skip  # good ones that are frequent


def write(headers: list[Header]) -> Written:
    """The lines, after a look at each: that it is a pair of strings with nothing in it that would end its line or
    speak for the server. Raises `ValueError` also for a Content-Length that is no number, or two of them."""
    if type(headers) is not list:
        _check_list(headers)
    text, says, length = "", 0, None
    for pair in headers:
        try:
            name, value = pair
            begin, what = _names.get(name) or _learn(name)
            if not (value.isascii() and value.isprintable()):
                _check_value(name, value)
        except (TypeError, AttributeError, ValueError) as error:
            raise _explained(pair, error) from None
        if type(pair) is not tuple:
            _check_pair(pair)
        if what:
            if what == Says.LENGTH:
                length = _length(value, says)
            says |= what
        text += begin + value + "\r\n"
    return Written(text, says, length)


def _check_list(headers: object) -> None:
    if not isinstance(headers, list):
        raise TypeError(f"headers must be a list, not {type(headers).__name__}")


def _check_pair(pair: object) -> None:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"a header must be a tuple (name, value), not {pair!r}")


def _explained(pair: object, error: Exception) -> Exception:
    """What is wrong with a header, in the app developer's words."""
    try:
        _check_pair(pair)
    except TypeError as wrong:
        return wrong
    assert isinstance(pair, tuple)
    if not isinstance(pair[0], str) or not isinstance(pair[1], str):
        return TypeError(f"a header's name and value must be str: {pair!r}")
    return error


def _learn(name: str) -> tuple[str, int]:
    if not _NAME.fullmatch(name):
        raise ValueError(f"bad header name {name!r}")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise ValueError(f"header {name} is the server's to send (PEP 3333, hop-by-hop)")
    known = (f"{name}: ", _RULED.get(lower, 0))
    if len(_names) < NAMES_MAX:
        _names[name] = known
    return known


def _check_value(name: str, value: str) -> None:
    """Latin-1, and tabs, are good."""
    if _BAD_VALUE.search(value):
        raise ValueError(f"header {name} has a character that no header may have: {value!r}")


def _length(value: str, says: int) -> int:
    if says & Says.LENGTH or not (value.isascii() and value.isdecimal() and len(value) < 20):
        raise ValueError(f"bad Content-Length {value!r}" + (": there are two" if says & Says.LENGTH else ""))
    return int(value)


def without_length(headers: list[Header]) -> Written:
    """The lines without Content-Length, which no 204 may have (RFC 9110 8.6)."""
    return write([(name, value) for name, value in headers if name.lower() != "content-length"])


def render(status: str, written: Written, own: str, date: str) -> bytes:
    """The head. `own` are the server's lines about framing and connection, each with its end."""
    if not written.says & (Says.DATE | Says.SERVER):
        return f"HTTP/1.1 {status}\r\n{written.text}Server: {SERVER}\r\nDate: {date}\r\n{own}\r\n".encode("latin-1")
    server = "" if written.says & Says.SERVER else f"Server: {SERVER}\r\n"
    dated = "" if written.says & Says.DATE else f"Date: {date}\r\n"
    return f"HTTP/1.1 {status}\r\n{written.text}{server}{dated}{own}\r\n".encode("latin-1")


def early_hints(headers: list[Header]) -> bytes:
    """A 103 response (RFC 8297)."""
    return f"HTTP/1.1 103 Early Hints\r\n{write(headers).text}\r\n".encode("latin-1")


def plain(status: int, date: str, connection: str = "close", *, body: bool = True) -> bytes:
    """A whole response of the server's own: status and its phrase as text. `body`: False for HEAD."""
    phrase = _PHRASES.get(status, "Error")
    text = f"{status} {phrase}\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))]
    if status == 405:
        headers.append(("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))  # RFC 9110 15.5.6
    own = f"Connection: {connection}\r\n" if connection else ""
    head = render(f"{status} {phrase}", write(headers), own, date)
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
