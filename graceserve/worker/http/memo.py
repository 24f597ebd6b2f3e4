"""Heads that have come before: what was found out about them is not found out again. Pure; used in a worker.

What comes of a head depends on nothing but its bytes and the limits. Clients and proxies send the same fields again and
again, so they are remembered as they stand, byte for byte, behind the request line. Of a request whose fields are known
only its line is looked at, with `policy.admit_alike`; a line that is not usual goes the long way through a parser.

Remembered are fields that were admitted without a body, and only when they come for the second time: what differs in
each request, because a client has its own address in it, costs next to nothing and drives nothing out. What has not
been used for a while is forgotten by generations: the older half goes when the younger one is full.
"""

from typing import TypeAlias

from graceserve.worker.http.policy import Admitted, Alike, admit_alike
from graceserve.worker.http.port import Limits

HEAD_BYTES_MAX = 2048  # of a head that is remembered; with the others, 3 MB a worker at the worst
GENERATION_MAX = 128  # sets of fields in each of the two
LINES_MAX = 4  # a set of fields, of
LINE_BYTES_MAX = 256  # each
SEEN_MAX = 1024  # hashes of fields that have come once

Known: TypeAlias = tuple[Alike, dict[bytes, Admitted]]  # and the latest of them, by their request lines


class Memo:
    """One for all connections of a worker: of one parser and one `Limits`."""

    __slots__ = ("_older", "_seen", "_younger", "head_bytes_max")

    def __init__(self, limits: Limits, head_bytes_max: int = HEAD_BYTES_MAX) -> None:
        self.head_bytes_max = min(head_bytes_max, limits.unsuspicious_bytes)  # `recall` is not to be asked for more
        self._younger: dict[bytes, Known] = {}
        self._older: dict[bytes, Known] = {}
        self._seen: set[int] = set()

    def recall(self, raw: bytes) -> Admitted | None:
        """What comes of this head, if that is known. `raw` need not be a head: then it is not known."""
        line, _, fields = raw.partition(b"\r\n")
        known = self._younger.get(fields)
        if known is None:
            known = self._older.get(fields)
            if known is None:
                return None
            self._keep(fields, known)
        alike, by_line = known
        admitted = by_line.get(line)
        if admitted is None:
            admitted = admit_alike(line, alike)
            if admitted is not None:
                admitted.raw = raw
                if len(line) <= LINE_BYTES_MAX:
                    if len(by_line) >= LINES_MAX:
                        by_line.clear()
                    by_line[line] = admitted
        return admitted

    def learn(self, raw: bytes, admitted: Admitted) -> None:
        """What came of a head without a body, the long way."""
        if len(raw) > self.head_bytes_max or admitted.expects_continue:
            return
        line, _, fields = raw.partition(b"\r\n")
        seen = hash(fields)
        if seen not in self._seen:
            if len(self._seen) >= SEEN_MAX:
                self._seen.clear()
            self._seen.add(seen)
            return
        alike = Alike(admitted)
        again = admit_alike(line, alike)
        if again is not None and again.variables.items() <= admitted.variables.items():  # the same as the long way
            self._keep(fields, (alike, {}))

    def _keep(self, fields: bytes, known: Known) -> None:
        if len(self._younger) >= GENERATION_MAX:
            self._older, self._younger = self._younger, {}
        self._younger[fields] = known
