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


_ONE = ord("1")


class _Callbacks:
    """What llhttp finds, where `parse` looks for it."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.targets: list[bytes] = []
        self.unfinished = [True]  # empty once llhttp expects the next head
        self.on_header = self.fields.__setitem__
        self.on_url = self.targets.append
        self.on_message_complete = self.unfinished.clear


class HttptoolsHeads:
    """See `port.Heads`."""

    __slots__ = ("_fields", "_found", "_h11", "_parser", "_targets", "_unfinished")

    def __init__(self) -> None:
        self._h11 = H11Heads()
        self._found = Head(b"", b"", b"", ())  # one for all, as the fields are
        self._renew()

    def parse(self, raw: bytes) -> Head | Broken:
        """See `port.Heads`. The head is good until the next call."""
        fields, targets, unfinished = self._fields, self._targets, self._unfinished
        fields.clear()
        targets.clear()
        unfinished.append(True)
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:  # RFC 9110 7.8: it may be ignored, and is
            pass
        except httptools.HttpParserError:
            self._renew()
            return self._h11.parse(raw)
        head = self._head(raw, fields, targets)
        if unfinished:  # a body or an upgrade is announced, which llhttp is not to read
            self._renew()
        return head

    def _head(self, raw: bytes, fields: dict[bytes, bytes], targets: list[bytes]) -> Head | Broken:
        """What llhttp read, if it is beyond doubt."""
        if len(targets) == 1 and len(fields) == raw.count(b"\n") - 2:  # of a repeated field it kept the last one
            method, target = self._parser.get_method(), targets[0]
            begin = len(method) + 1
            end = begin + len(target)
            # one more space, HTTP/0.9 and 2.0, RTSP: llhttp takes them
            if raw.startswith(target, begin) and raw.startswith(b" HTTP/1.", end):
                head = self._found
                head.method, head.target, head.fields = method, target, fields.items()
                head.version = b"1.1" if raw[end + 8] == _ONE else b"1.0"
                return head
        return self._h11.parse(raw)

    def _renew(self) -> None:
        callbacks = _Callbacks()
        self._fields, self._targets, self._unfinished = callbacks.fields, callbacks.targets, callbacks.unfinished
        parser: Any = httptools.HttpRequestParser(callbacks)
        # each head is fed alone, so nothing can hide behind one that says `Connection: close`
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parser = parser
