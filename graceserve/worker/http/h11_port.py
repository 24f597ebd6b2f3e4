"""The parser port on h11: strict, in Python, wherever httptools is not. Pure; used in a worker.

h11 does not tell a folded line or a bare LF from a good line; what RFC 9112 leaves to the recipient is refused here.
"""

import h11

from graceserve.worker.http.port import Broken, Head

_CONTROLS = bytes((*range(9), *range(10, 32), 127))  # RFC 9110 5.5: all but HTAB; CR and LF are counted apart


class H11Heads:
    """See `port.Heads`. Each head gets a connection of its own: one that never responds can't go on to the next."""

    def parse(self, raw: bytes) -> Head | Broken:
        """See `port.Heads`."""
        if odd := _oddity(raw):
            return Broken(400, odd)
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(raw) + 1)
        parser.receive_data(raw)
        try:
            request = parser.next_event()
        except h11.RemoteProtocolError as error:
            return Broken(error.error_status_hint, str(error))
        assert isinstance(request, h11.Request), "a whole head is a request or an error"
        return Head(request.method, request.target, request.http_version, list(request.headers))


def _oddity(raw: bytes) -> str:
    """What h11 lets pass, or joins; empty if there is nothing of it."""
    lines = raw.count(b"\r\n")
    if raw.count(b"\n") > lines:
        return "a line ends with LF alone"  # 2.2
    if raw.count(b"\r") > lines:
        return "a CR without LF"  # 2.2
    if b"\n " in raw or b"\n\t" in raw:
        return "a folded header line"  # 5.2
    if len(raw.translate(None, _CONTROLS)) != len(raw) - 2 * lines:
        return "a control character in the head"
    return ""
