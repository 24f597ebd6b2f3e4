r"""The corpus of requests, `requests/**/*.http`, and how a test has them read.

A file is a head of comment lines, an empty line, and the request:

    # rfc: 9112 3.2                              the section that decides it
    # why: A proxy routes by one, ...            one line
    # limits: line_bytes_max=40 fields_max=3     optional: where it needs other than the default `Limits`
    # request: GET /a?b HTTP/1.1                 each request that is served: method, target, protocol
    # path: /a                                   as the app sees it: percent-decoded
    # query: b                                   this and the following lines only where there is something to say
    # host: a
    # header: X-Y: 1, 2                          all fields that the app sees but for Host, repeated ones joined
    # body: abc
    # keep-alive: no                             expected is "yes"
    # expects-continue: yes                      expected is "no"
    # status: 400                                then it is refused (invalid/)
    # waits: yes                                 or it needs more bytes (incomplete/)

    GET /a?b HTTP/1.1\r\n
    Host: a\r\n
    \r\n

The ends of the file's own lines are nothing; each byte is written down: \r \n \t \0 \\ \xHH, \s for a space at the end
of a line, and \{text*300} for 300 times the text. Behind `path`, `query`, `host`, `header` and `body`, too.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from graceserve.worker.http.chunked import LINE_BYTES_MAX
from graceserve.worker.http.h11_port import H11Heads
from graceserve.worker.http.httptools_port import HttptoolsHeads
from graceserve.worker.http.memo import NEW_MAX, Memo
from graceserve.worker.http.policy import Admitted, Refused
from graceserve.worker.http.port import Heads, Limits
from graceserve.worker.http.reader import END, Event, Reader

ROOT = Path(__file__).parent / "requests"
FOLDERS = ("valid", "invalid", "incomplete")
OF_THE_LINE = ("REQUEST_METHOD", "RAW_URI", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL")

# --- what is expected, and what is seen


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it is served. The same for what a file says and for what a reader gives."""

    method: str
    target: str
    path: str
    query: str
    protocol: str
    fields: tuple[tuple[str, str], ...]  # by environ key, sorted
    body: bytes
    keep_alive: bool
    expects_continue: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of all the bytes."""

    requests: tuple[Request, ...] = ()  # the complete ones
    status: int = 0  # that the next one was refused with
    waits: bool = False  # for more of the next one; neither: the connection is idle


@dataclass(frozen=True, slots=True)
class Account:
    """All that a reader gave, complete or not."""

    outcome: Outcome
    begun: Request | None  # admitted, its body is not complete

    def without_partial_body(self) -> "Account":
        """How much of a body came before it proved bad may depend on how it was cut."""
        begun = replace(self.begun, body=b"") if self.begun and self.outcome.status else self.begun
        return Account(self.outcome, begun)


@dataclass(frozen=True, slots=True)
class Case:
    """A file of the corpus."""

    name: str
    rfc: str
    why: str
    limits: Limits
    raw: bytes
    expected: Outcome


# --- reading them with a reader


def parsers() -> dict[str, Heads]:
    """All implementations of the parser port, new ones."""
    return {"h11": H11Heads(), "httptools": HttptoolsHeads()}


class Reading:
    """Feeds a reader and writes down what it gives. Checks on the way what must hold of every reader."""

    def __init__(self, heads: Heads, limits: Limits, memo: Memo | None = None) -> None:
        self.reader = Reader(heads, limits, memo)
        self.requests: list[Request] = []
        self.status = 0
        self._partial = b""  # the body of a request that is not complete
        self._most_bytes = max(limits.head_bytes_max, LINE_BYTES_MAX + 1)  # what may have to be kept for its end
        self._open: Admitted | None = None

    def feed(self, piece: bytes) -> None:
        """Nothing happens once it has refused something."""
        if self.status:
            return
        self.reader.receive(piece)
        most_events = 3 * (self.reader.held_bytes + 1)  # a byte is a request at most, with a body and its end
        while (event := self.reader.next_event()) is not None:
            most_events -= 1
            assert most_events, "events without bytes"
            if not self._take(event):
                break
        assert 0 <= self.reader.held_bytes <= self._most_bytes + len(piece), self.reader.held_bytes

    def _take(self, event: Event) -> bool:
        """Whether there may be more."""
        if isinstance(event, Refused):
            assert 400 <= event.status <= 599 and event.reason, event
            self.status = event.status
            return False
        if isinstance(event, Admitted):
            assert self._open is None, "the last request was not complete"
            self._open, self._partial = event, b""
            if self.reader.bodyless:
                self._complete()
        elif event is END:
            self._complete()
        else:
            assert isinstance(event, bytes) and event, "a piece of a body is bytes, and never empty"
            assert self._open is not None, "a body without a head"
            self._partial += event
        return True

    def _complete(self) -> None:
        assert self._open is not None, "an end without a head"
        self.requests.append(as_request(self._open, self._partial))
        self._open, self._partial = None, b""

    def account(self) -> Account:
        begun = None if self._open is None else as_request(self._open, self._partial)
        waits = not self.status and (begun is not None or self.reader.held_bytes > 0)
        return Account(Outcome(tuple(self.requests), self.status, waits), begun)


def account(heads: Heads, limits: Limits, pieces: Iterable[bytes], memo: Memo | None = None) -> Account:
    reading = Reading(heads, limits, memo)
    for piece in pieces:
        reading.feed(piece)
    return reading.account()


def read(heads: Heads, limits: Limits, pieces: Iterable[bytes], memo: Memo | None = None) -> Outcome:
    """With a memo that knows nothing yet, unless another one is given."""
    return account(heads, limits, pieces, memo).outcome


def agreed(h11: Heads, httptools: Heads, limits: Limits, raw: bytes, cuts: Iterable[int]) -> Outcome:
    """What comes of it. Raises `AssertionError` if that depends on the parser, on how it is cut, or on the memo."""
    none = Memo(limits, 0)
    whole, other = account(h11, limits, [raw], none), account(httptools, limits, [raw], none)
    assert whole == other, f"the parsers differ: {whole} {other}"
    pieces = cut_at(raw, cuts)
    cut, other = account(h11, limits, pieces, none), account(httptools, limits, pieces, none)
    assert cut == other, f"the parsers differ in pieces: {cut} {other}"
    assert cut.without_partial_body() == whole.without_partial_body(), f"it depends on the cuts: {whole} {cut}"
    its_own = Memo(limits, new_max=1 if len(raw) % 2 else NEW_MAX)  # one of them is quick to see what differs
    for name, memo in (("of its own", its_own), ("of all before", _experienced(limits))):
        _memorize(httptools, limits, raw, memo)
        for again in range(3):  # recalled at once, or learned: the second time at the latest
            other = account(httptools, limits, [raw], memo)
            assert whole == other, f"it depends on the memo {name}, {again}: {whole} {other}"
        other = account(httptools, limits, pieces, memo)
        assert cut == other, f"it depends on the memo {name} in pieces: {cut} {other}"
    return whole.outcome


@cache
def _experienced(limits: Limits) -> Memo:
    """One that goes on from input to input, and has seen it all."""
    return Memo(limits, new_max=8)


def _memorize(heads: Heads, limits: Limits, raw: bytes, memo: Memo) -> None:
    """Have it know the fields of the first head, as a block and each by itself, if behind a good line they are good."""
    _, line_end, rest = raw.partition(b"\r\n")
    fields, head_end, _ = rest.partition(b"\r\n\r\n")
    for _ in range(2):
        read(heads, limits, [b"GET / HTTP/1.1" + line_end + fields + head_end], memo)
    for line in fields.split(b"\r\n"):
        name, colon, _ = line.partition(b": ")
        read(heads, limits, [b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"], memo)
        if name.lower() == b"host":
            read(heads, limits, [b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n"], memo)
        else:
            read(heads, limits, [b"GET / HTTP/1.1\r\nHost: a\r\n" + name + colon + b"another\r\n\r\n"], memo)
    for _ in range(2):  # without what differs, too
        read(heads, limits, [b"GET / HTTP/1.1" + line_end + fields + head_end], memo)


def as_request(admitted: Admitted, body: bytes) -> Request:
    """The one place that knows how `Admitted` keeps a request."""
    rest = {**(admitted.fields or {}), **(admitted.differing or {}), **admitted.variables}
    method, target, uri, path, query, protocol = (rest.pop(key) for key in OF_THE_LINE)
    assert (method, path, target) == (admitted.method, admitted.path, uri)
    assert ((protocol == "HTTP/1.0"), method == "HEAD") == (admitted.is_http10, admitted.is_head)
    fields = tuple(sorted(rest.items()))
    return Request(method, target, path, query, protocol, fields, body, admitted.keep_alive, admitted.expects_continue)


def variable(name: str) -> str:
    """The environ key of a header field (RFC 3875 4.1.18)."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") and "_" not in name else f"HTTP_{key}"


# --- how bytes can arrive


def byte_by_byte(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def in_two(raw: bytes) -> Iterator[list[bytes]]:
    """Cut into two at every position; a long one, which is long by repetition, near its ends and here and there."""
    near = 350 if len(raw) <= 700 else 60 if len(raw) < 10_000 else 10
    step = len(raw) // 10 | 1
    for cut in range(1, len(raw)):
        if cut <= near or cut >= len(raw) - near or cut % step == 0:
            yield [raw[:cut], raw[cut:]]


def cut_at(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut at these positions; no piece is empty."""
    places = sorted({cut for cut in cuts if 0 < cut < len(raw)})
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True) if start < end]


# --- loading


@cache
def cases() -> tuple[Case, ...]:
    """All files, sorted."""
    return tuple(load(path) for path in sorted(ROOT.rglob("*.http")))


def load(path: Path) -> Case:
    """Raises `ValueError` for a file that is not in the format."""
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    try:
        return parse(name, path.read_bytes().decode("ascii"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@dataclass(slots=True)
class _Lines:
    """The head of a file."""

    facts: dict[str, str] = field(default_factory=dict)  # rfc, why, limits, status, waits
    requests: list[dict[str, Any]] = field(default_factory=list)


_FACTS = ("rfc", "why", "limits", "status", "waits")
_OF_A_REQUEST = ("path", "query", "host", "body", "keep-alive", "expects-continue")


def parse(name: str, text: str) -> Case:
    head, separator, body = text.partition("\n\n")
    if not separator or not body.endswith("\n"):
        raise ValueError("there must be an empty line behind the head, and a line end at the end")
    for line in text.split("\n"):
        if line != line.rstrip() or "\t" in line or "\r" in line:
            raise ValueError(f"white space that one can't see: write \\s or \\t: {line!r}")
    said = _Lines()
    for line in head.split("\n"):
        if not line.startswith("# ") or ":" not in line:
            raise ValueError(f"no line of a head: {line!r}")
        key, _, value = line[2:].partition(":")
        _add(said, key, value.removeprefix(" "))
    for key in ("rfc", "why"):
        if not said.facts.get(key):
            raise ValueError(f"no {key}")
    expected = Outcome(
        tuple(_request(facts) for facts in said.requests),
        int(said.facts.get("status", "0")),
        _yes(said.facts.get("waits", "no")),
    )
    raw = unescaped(body.replace("\n", ""))
    return Case(name, said.facts["rfc"], said.facts["why"], _limits(said.facts.get("limits", "")), raw, expected)


def _add(said: _Lines, key: str, value: str) -> None:
    if key == "request":
        said.requests.append({"request": value, "header": []})
    elif key in _FACTS:
        if key in said.facts:
            raise ValueError(f"{key} twice")
        said.facts[key] = value
    elif not said.requests:
        raise ValueError(f"{key} must be of a request, or is not known")
    elif key == "header":
        said.requests[-1]["header"].append(value)
    elif key in _OF_A_REQUEST and key not in said.requests[-1]:
        said.requests[-1][key] = value
    else:
        raise ValueError(f"{key} is not known, or twice")


def _request(facts: dict[str, Any]) -> Request:
    method, target, protocol = facts["request"].split(" ")
    variables = {"HTTP_HOST": _characters(facts["host"])} if "host" in facts else {}
    for header in facts["header"]:
        name, colon, value = header.partition(":")
        if not colon or variable(name) in variables:
            raise ValueError(f"header {header!r} without a colon, or twice")
        variables[variable(name)] = _characters(value.removeprefix(" "))
    return Request(
        method, _characters(target), _characters(facts["path"]), _characters(facts.get("query", "")), protocol,
        tuple(sorted(variables.items())), unescaped(facts.get("body", "")),
        _yes(facts.get("keep-alive", "yes")), _yes(facts.get("expects-continue", "no")),
    )  # fmt: skip


def _characters(text: str) -> str:
    """As WSGI has them: a character is a byte."""
    return unescaped(text).decode("latin-1")


def _yes(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _limits(text: str) -> Limits:
    values: dict[str, Any] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        values[key] = int(value) if value.isdecimal() else value
    return Limits(**values)


# --- the notation for bytes

_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "s": b" ", "\\": b"\\"}
_TOKEN = re.compile(r"\\x(?P<hex>[0-9a-f]{2})|\\(?P<repeat>\{)|\\(?P<escape>[rnt0s\\])|(?P<plain>[^\\])")
_RUN = re.compile(r"(\\x[0-9a-f]{2}|\\.|[^\\])\1{29,}")  # is written as a repetition
_TIMES = re.compile(r"\*([0-9]+)\}")


def unescaped(text: str) -> bytes:
    """The bytes of a text in the notation. Raises `ValueError`."""
    made, end = _unescape(text, 0, nested=False)
    assert end == len(text)
    return made


def _unescape(text: str, start: int, *, nested: bool) -> tuple[bytes, int]:
    made = bytearray()
    while start < len(text):
        if nested and (times := _TIMES.match(text, start)):
            return bytes(made) * int(times[1]), times.end()
        token = _TOKEN.match(text, start)
        if token is None:
            raise ValueError(f"unknown escape: {text[start : start + 8]!r}")
        start = token.end()
        if token["repeat"]:
            piece, start = _unescape(text, start, nested=True)
            made += piece
        elif token["hex"]:
            made.append(int(token["hex"], 16))
        else:
            made += _ESCAPES[token["escape"]] if token["escape"] else token["plain"].encode("ascii")
    if nested:
        raise ValueError("a repetition without its *number}")
    return bytes(made), start


def escaped(raw: bytes) -> str:
    """The notation of these bytes, a line of the request a line, as a file has it."""
    names = {value[0]: f"\\{key}" for key, value in _ESCAPES.items() if key != "s"}
    text = "".join(names.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}") for byte in raw)
    text = _RUN.sub(lambda run: f"\\{{{run[1]}*{len(run[0]) // len(run[1])}}}", text)
    lines = re.sub(r"(?<!\\)((?:\\\\)*\\n)", r"\1\n", text).split("\n")
    return "\n".join(line[:-1] + "\\s" if line.endswith(" ") else line for line in lines if line)
