"""The parser port: what the worker needs of an HTTP/1.1 parser, which is to read heads. Pure; used in a worker.

A parser gets one whole head and tells what is in it. Where a head ends, how long it may be and what is acceptable is
the `reader`'s and the `policy`'s to say, so that all parsers give the same server; bodies need no parser (`chunked`).
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may measure, in bytes; header fields by number. `of` makes them of gunicorn's options."""

    line_bytes_max: int = 4094  # the request line
    head_bytes_max: int = 262_144  # all of the head
    fields_max: int = 100
    field_bytes_max: int = 8190  # a field line
    body_bytes_max: int = 1 << 30
    header_map: str = "drop"  # names with an underscore: `--header-map`
    unsuspicious_bytes: int = field(init=False)  # a head no longer than this is within all limits of bytes

    def __post_init__(self) -> None:
        smallest = min(self.line_bytes_max, self.field_bytes_max, self.head_bytes_max)
        object.__setattr__(self, "unsuspicious_bytes", smallest)


@dataclass(slots=True)  # not frozen: one is made a request, and freezing costs more than the rest of it
class Head:
    """A request's head as it was received, good until the next one is parsed.

    Names are in any case, in order, repeated as they came; values may have white space around them.
    """

    method: bytes
    target: bytes
    version: bytes  # b"1.1"
    fields: Collection[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Broken:
    """What came is no HTTP/1.1 request; nothing behind it can be read."""

    status: int
    reason: str


class Heads(Protocol):
    """A parser of heads, for all connections of a worker: it keeps nothing from one head to the next."""

    def parse(self, raw: bytes) -> Head | Broken:
        """`raw` is one head, from the request line's first byte to the empty line's last."""
