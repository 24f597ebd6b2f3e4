"""How long a client may take. Pure; used in a worker.

A limit that every byte extends is no limit: who is slow gets a fixed time, and more only in return for bytes.
"""

from dataclasses import dataclass

BYTES_A_SECOND_MIN = 500  # Apache's mod_reqtimeout: MinRate
NEVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. A time of `NEVER_S` is no limit."""

    keep_alive_s: float  # between requests
    head_s: float = 60.0  # for a whole head, whatever its pace; nginx's client_header_timeout
    body_s: float = 60.0  # see `Pace`; nginx's client_body_timeout
    write_s: float = 60.0  # see `Pace`; nginx's send_timeout
    linger_s: float = 2.0  # to read our last byte: closing while it still sends would destroy that


class Pace:
    """Whether a transfer gets on: something within `limit_s` each time, and all in all `BYTES_A_SECOND_MIN` after that.

    Only its connection changes it.
    """

    __slots__ = ("_begun", "_begun_bytes", "_last", "_last_bytes", "_limit_s")

    def __init__(self, limit_s: float, now: float, bytes_so_far: int = 0) -> None:
        self._limit_s = limit_s
        self._begun = self._last = now
        self._begun_bytes = self._last_bytes = bytes_so_far

    def too_slow(self, now: float, bytes_so_far: int) -> bool:
        """Asked from time to time; `now` in seconds."""
        if bytes_so_far != self._last_bytes:
            self._last, self._last_bytes = now, bytes_so_far
        earned_s = (bytes_so_far - self._begun_bytes) / BYTES_A_SECOND_MIN
        return now - self._last > self._limit_s or now - self._begun > self._limit_s + earned_s
