"""The parser port: what the worker needs of an HTTP/1.1 parser. Pure; used in a worker.

A parser turns bytes into `Head`, body bytes and `END`, and reports what it saw without judging it: whether a request is
acceptable is for `policy` alone, so that all parsers give the same server. It stops behind `END` until it is asked
again, therefore a pipelined request costs nothing before its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Limits:
    """What a head may measure, in bytes; header fields by number."""

    line_bytes_max: int = 8190  # request line; Apache's LimitRequestLine
    head_bytes_max: int = 65_536
    fields_max: int = 100  # gunicorn's --limit-request-fields
    body_bytes_max: int = 1 << 30  # waitress's max_request_body_size


class Oddity(Enum):
    """Something in a head that RFC 9112 lets a recipient accept or refuse."""

    BARE_LF = "a line ends with LF alone"  # 2.2
    BARE_CR = "a CR without LF"  # 2.2
    OBS_FOLD = "a folded header line"  # 5.2
    NUL = "a NUL byte"


@dataclass(slots=True)  # not frozen: one is made a request, and freezing costs more than the rest of it
class Head:
    """A request's head as it was received. Header names are lower-case, in order, repeated as they came."""

    method: bytes
    target: bytes
    version: bytes  # b"1.1"
    headers: Sequence[tuple[bytes, bytes]]
    oddities: tuple[Oddity, ...] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """What came is no HTTP/1.1 request; nothing behind it can be read."""

    status: int
    reason: str


class End(Enum):
    """The request is complete."""

    END = "end"


END = End.END
Event: TypeAlias = Head | bytes | bytearray | End | Broken  # bytes are a piece of the body, never empty


class Parser(Protocol):
    """One a connection."""

    def receive(self, data: bytes) -> None:
        """Keep bytes from the client."""

    def next_event(self) -> Event | None:
        """The next event, None if it takes more bytes. After `Broken` not to be asked again."""

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept that no event has given yet. 0 between requests: the connection is idle."""
