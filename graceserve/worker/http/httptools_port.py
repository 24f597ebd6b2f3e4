"""The parser port on httptools (llhttp), the default. Pure; used in a worker.

llhttp accepts and refuses as `policy` wants it in nearly everything; the few differences are found by looking at the
head again. A head that llhttp refuses is read by h11, which knows a method that llhttp does not, and whose verdict
counts: so a request has the same fate with both parsers.

One llhttp parser reads the heads of all connections. Its callbacks are methods of built-in types, because a call into
Python for each header would cost more than the parsing.
"""

from typing import Any

import httptools

from graceserve.worker.http.h11_port import H11Heads
from graceserve.worker.http.port import Broken, Head

_VERSIONS = {b" HTTP/1.1\r": b"1.1", b" HTTP/1.0\r": b"1.0"}  # and what stands around it


class _Callbacks:
    """What llhttp finds, where `parse` looks for it."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.targets: list[bytes] = []
        self.unfinished = [True]  # empty once llhttp expects the next head
        self.on_header = self.fields.setdefault  # a tenth cheaper than `__setitem__`
        self.on_url = self.targets.append
        self.on_message_complete = self.unfinished.clear


class HttptoolsHeads:
    """See `port.Heads`."""

    __slots__ = ("_feed", "_fields", "_found", "_h11", "_method", "_targets", "_unfinished")

    def __init__(self) -> None:
        self._h11 = H11Heads()
        self._found = Head(b"", b"", b"", ())  # one for all, as the fields are
        self._renew()

    def parse(self, raw: bytes) -> Head | Broken:
        """See `port.Heads`. The head is good until the next call."""
        fields, targets, unfinished = self._fields, self._targets, self._unfinished
        fields.clear()
        unfinished.append(True)
        try:
            self._feed(raw)
        except httptools.HttpParserUpgrade:  # RFC 9110 7.8: it may be ignored, and is
            pass
        except httptools.HttpParserError:
            targets.clear()
        if not targets:  # refused, or waiting for more where the head should have ended
            self._renew()
            return self._h11.parse(raw)
        head = self._found
        head.target = target = targets.pop()
        head.method = method = self._method()
        end = len(method) + len(target) + 11
        version = _VERSIONS.get(raw[end - 10 : end])
        head.fields = fields.items()
        connection = fields.get(b"Connection") or fields.get(b"connection")
        unusual = connection is not None and connection.lower() != b"keep-alive"
        if unfinished or version != b"1.1" or unusual or raw.find(b"roxy-") >= 0:  # llhttp obeys Proxy-Connection, too
            # A body or an upgrade is announced, which llhttp is not to read; or it may take no head behind this one,
            # which says `Connection: close`: that is its connection's affair, and the next head is another one's.
            self._renew()
        # One more space, HTTP/0.9 and 2.0, RTSP: llhttp takes them. Of a repeated field it kept the first one.
        if version is None or raw.count(b"\n") != len(fields) + 2:
            return self._h11.parse(raw)
        head.version = version
        return head

    def _renew(self) -> None:
        callbacks = _Callbacks()
        self._fields, self._targets, self._unfinished = callbacks.fields, callbacks.targets, callbacks.unfinished
        parser: Any = httptools.HttpRequestParser(callbacks)
        self._feed, self._method = parser.feed_data, parser.get_method
