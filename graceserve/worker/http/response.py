"""The response head: what the app may say, and its bytes. Pure; used in a worker.

Raises `ValueError` and `TypeError` for what an app must not send, before a byte of it is sent.
"""

import re
from enum import Enum
from functools import lru_cache

Header = tuple[str, str]

_STATUS = re.compile(r"[2-9][0-9][0-9]( [^\x00-\x08\x0a-\x1f\x7f]*)?")  # 1xx is not final: not the app's to send
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]")  # a line end would be a header of its own
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers",
     "transfer-encoding", "upgrade")  # PEP 3333, "Other HTTP Features": the connection is the server's
)  # fmt: skip
_NO_BODY = frozenset((204, 304))  # RFC 9110 15.3.5, 15.4.5

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


def check_status(status: str) -> str:
    """The status line's rest, as "200 OK"."""
    if not isinstance(status, str):
        raise TypeError(f"status must be a str, not {type(status).__name__}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"bad status {status!r}: three digits, a space and a reason, 200 or above")
    status.encode("latin-1")
    return status if len(status) > 3 else status + " "


def check_headers(headers: list[Header]) -> None:
    """That each is a pair of strings with nothing in it that would end its line or speak for the server."""
    if not isinstance(headers, list):
        raise TypeError(f"headers must be a list, not {type(headers).__name__}")
    for pair in headers:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"a header must be a tuple (name, value), not {pair!r}")
        name, value = pair
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"a header's name and value must be str: {pair!r}")
        _check_name(name)
        if _BAD_VALUE.search(value):
            raise ValueError(f"header {name} has a character that no header may have: {value!r}")


@lru_cache(256)
def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"bad header name {name!r}")
    if name.lower() in _HOP_BY_HOP:
        raise ValueError(f"header {name} is the server's to send (PEP 3333, hop-by-hop)")


def content_length(headers: list[Header]) -> int | None:
    """That the app announces, None if it does not. Raises `ValueError` if it is no number, or there are two."""
    lengths = [value for name, value in headers if len(name) == 14 and name.lower() == "content-length"]
    if not lengths:
        return None
    if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdecimal()):
        raise ValueError(f"bad Content-Length {', '.join(lengths)!r}")
    return int(lengths[0])


def has_no_body(status: str) -> bool:
    """Whether a response with this status never has a body."""
    return int(status[:3]) in _NO_BODY


def render(status: str, headers: list[Header], own: list[str], date: str) -> bytes:
    """The head. `headers` and `status` are checked; `own` are the server's lines about framing and connection."""
    lines = [f"HTTP/1.1 {status}"]
    names = set()
    for name, value in headers:
        lower = name.lower()
        names.add(lower)
        if lower == "content-length" and status.startswith("204"):
            continue  # RFC 9110 8.6
        lines.append(f"{name}: {value}")
    if "server" not in names:
        lines.append("Server: graceserve")
    if "date" not in names:
        lines.append(f"Date: {date}")
    lines += own
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def plain(status: int, date: str, connection: str = "close", *, body: bool = True) -> bytes:
    """A whole response of the server's own: status and its phrase as text. `body`: False for HEAD."""
    phrase = _PHRASES.get(status, "Error")
    text = f"{status} {phrase}\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))]
    if status == 405:
        headers.append(("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))  # RFC 9110 15.5.6
    head = render(f"{status} {phrase}", headers, [f"Connection: {connection}"] if connection else [], date)
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
