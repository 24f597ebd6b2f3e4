"""Faults that other servers have or had, as bytes on the wire of a real worker, inline and with threads.

What a single exchange shows without a connection (which heads are refused, what start_response may be called with) is
in tests/pure/test_worker_exchange.py; here is what spoils connections, neighbours and the worker.
"""

import json
import re
import socket
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.http.harness import Client, Response, eventually
from tests.wsgi.faulty import FIVE, SAYING, SAYS_BADLY
from tests.wsgi.serving import Crew, Served

APP = "tests.wsgi.faulty:app"
TEN = FIVE * 2
HELLO = b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n"
NAMES = count()


class Wire(Client):
    """A client that also keeps all that it has received, as it came."""

    def __enter__(self) -> "Wire":
        return self

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.raw = b""

    def _more(self) -> bool:
        before = len(self.buffer)
        more = super()._more()
        self.raw += self.buffer[before:]
        return more

    def rest(self) -> bytes:
        """All up to the end of the connection."""
        while self._more():
            pass
        return self.buffer


def request(path: str, *fields: bytes, method: bytes = b"GET", version: bytes = b"1.1", body: bytes = b"") -> bytes:
    lines = [b"%b %b HTTP/%b" % (method, quote(path, safe="/?=").encode(), version), b"Host: test", *fields, b"", body]
    return b"\r\n".join(lines)


@pytest.fixture
def served(crew: Crew, mode: str) -> Served:
    return crew.of(APP, mode)


def connect(served: Served) -> Wire:
    return Wire(served.at.connect().sock)


@pytest.fixture
def client(served: Served) -> Iterator[Wire]:
    with connect(served) as made:
        yield made


@pytest.fixture
def name() -> str:
    """Of a request, for `state`."""
    return f"n{next(NAMES)}"


def state(served: Served, name: str) -> Any:
    return json.loads(served.at.get(f"/state?{name}").body)


def goes_on(client: Wire, answer: Response) -> bool:
    """The next response, which was asked for already, is what it would be alone; or none comes after a `close`."""
    if answer.headers.get("connection") == "close":
        return client.closed()
    return client.response().body == b"hello"


def is_over_or_goes_on(client: Wire) -> bool:
    """The same, where the server may also end the connection without having said so."""
    return (not client.buffer and not client._more()) or client.response().body == b"hello"


# --- bodies that are not what the head says

CHUNK = b"5\r\n12345\r\n"
CUT_OFF = {
    "/short/list": FIVE, "/short/iterator": FIVE, "/short/write": FIVE, "/short/write-and-iterator": FIVE,
    "/short/file": FIVE, "/short/file-in-memory": FIVE, "/short/raises": FIVE, "/short/exits": FIVE,
    "/short/text": FIVE, "/chunked/raises": CHUNK, "/chunked/exits": CHUNK, "/chunked/interrupts": CHUNK,
    "/chunked/text": CHUNK, "/chunked/none": CHUNK, "/chunked/write-and-raises": CHUNK, "/chunked/file-breaks": CHUNK,
}  # fmt: skip


@pytest.mark.parametrize("path", CUT_OFF)
def test_what_is_cut_off_can_not_be_taken_for_complete(served: Served, client: Wire, path: str) -> None:
    """Nothing comes after it: no last chunk, no other response that would fill the gap, only the end."""
    client.send(request(path) + HELLO)
    head, _, body = client.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and body == CUT_OFF[path]
    assert served.at.get("/").body == b"hello"


@pytest.mark.parametrize(
    "path", ["/body/whole-then-raises", "/body/long", "/body/long-write", "/body/long-write-and-iterator"]
)
def test_a_length_is_kept_whatever_comes_after_it(client: Wire, path: str) -> None:
    client.send(request(path))
    assert client.response().body == TEN
    client.send(HELLO)
    assert is_over_or_goes_on(client)


LYING_LENGTHS = {"one-gives-two": TEN, "two-gives-one": FIVE, "one-gives-none": b"", "none-gives-one": FIVE,
                 "raises": TEN, "other-list": TEN}  # fmt: skip


@pytest.mark.parametrize("path", LYING_LENGTHS)
def test_an_iterable_that_lies_about_its_length_spoils_nothing(client: Wire, path: str) -> None:
    client.send(request(f"/len/{path}"))
    answer = client.response()
    assert answer.status == 500 or LYING_LENGTHS[path].startswith(answer.body)
    client.send(HELLO)
    assert is_over_or_goes_on(client)


WITHOUT_BODY: list[tuple[bytes, str]] = [
    *((b"HEAD", path) for path in (
        "/short/iterator", "/short/write", "/short/file", "/body/long", "/body/long-write", "/chunked/raises",
        "/chunked/text", "/chunked/write-and-raises", "/body/exits-first", "/close/no-start", "/close/raises",
        "/raises",
    )),
    *((b"GET", path) for path in ("/body/204", "/body/204-with-one", "/body/304-with-one", "/body/304-written")),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), WITHOUT_BODY)
def test_a_body_that_must_not_be_is_not_read_as_the_next_response(client: Wire, method: bytes, path: str) -> None:
    client.send(request(path, method=method) + HELLO)
    client.response(head=True)
    assert is_over_or_goes_on(client)
    assert client.raw.count(b"\r\n\r\n") == 1 or client.raw.endswith(b"\r\n\r\nhello")


# --- when a connection ends

CONNECTION: list[tuple[bytes, list[bytes], bool]] = [  # version, fields, whether it goes on
    (b"1.1", [], True),
    (b"1.1", [b"Connection: keep-alive"], True),
    (b"1.1", [b"Connection: x-close, closed"], True),
    (b"1.1", [b"Connection: keep-alive, close"], False),
    (b"1.1", [b"Connection: close, keep-alive"], False),
    (b"1.1", [b"Connection: keep-alive", b"connection: CLOSE"], False),
    (b"1.1", [b"Connection: close", b"Connection: keep-alive"], False),
    (b"1.1", [b"Connection: ,,\t close ,"], False),
    (b"1.0", [], False),
    (b"1.0", [b"Connection: keep-alive"], True),
    (b"1.0", [b"Connection: keep-alive, close"], False),
    (b"1.0", [b"Connection: Keep-Alive", b"Connection: close"], False),
]


@pytest.mark.parametrize(("version", "fields", "stays"), CONNECTION)
def test_close_means_close(client: Wire, name: str, version: bytes, fields: list[bytes], stays: bool) -> None:
    """Also for what was sent behind the request: it is not answered."""
    client.send(request("/hello", *fields, version=version) + request(f"/hello?{name}"))
    answer = client.response()
    assert answer.body == b"hello" and (answer.headers.get("connection") != "close") == stays
    assert goes_on(client, answer)


def test_what_comes_behind_a_close_does_not_reach_the_app(served: Served, client: Wire, name: str) -> None:
    client.send(request("/hello", b"Connection: close") + request(f"/hello?{name}"))
    assert client.rest().count(b"HTTP/1.1 ") == 1
    assert state(served, name)["called"] == 0


# --- what an app does to what it was given

ENVIRON = {
    "/environ/clear": FIVE, "/environ/clear-late": TEN, "/environ/HEAD": TEN, "/environ/1.0": TEN, "/environ/None": TEN,
    "/environ/keys": FIVE, "/environ/input": FIVE,
}  # fmt: skip


@pytest.mark.parametrize("path", ENVIRON)
def test_environ_is_the_app_s_to_spoil(served: Served, client: Wire, path: str) -> None:
    served.news()
    client.send(request(path, b"Content-Length: 3", method=b"POST", body=b"abc") + HELLO)
    answer = client.response()
    assert (answer.status, answer.body, answer.complete) == (200, ENVIRON[path], True)
    assert goes_on(client, answer) and "connection" not in answer.headers
    assert served.news() == ""


def test_a_head_stays_a_head(client: Wire) -> None:
    client.send(request("/environ/GET", method=b"HEAD") + HELLO)
    assert goes_on(client, client.response(head=True))


def test_an_error_with_an_empty_environ_is_logged(served: Served, client: Wire) -> None:
    served.news()
    client.send(request("/environ/clear-and-raise") + HELLO)
    answer = client.response()
    assert answer.status == 500 and goes_on(client, answer)
    assert re.search(r"app-error .*\n +Traceback", served.news())


@pytest.mark.parametrize("change", ["append", "inject", "length", "hop-by-hop", "type", "clear"])
def test_headers_are_what_start_response_was_given(client: Wire, change: str) -> None:
    """What the app does to its list later has been looked at by nobody."""
    client.send(request(f"/headers/{change}") + HELLO)
    answer = client.response()
    assert (answer.status, answer.body, answer.headers.get("x-own")) == (200, TEN, "1")
    assert b"Evil" not in client.raw and "content-length" not in answer.headers
    assert goes_on(client, answer)


def test_the_app_s_list_of_headers_stays_as_it_is(client: Wire) -> None:
    answers = [client.get("/headers/shared") for _ in range(3)]
    assert [answer.body for answer in answers] == [b"2"] * 3
    assert [len(answer.headers) for answer in answers] == [len(answers[0].headers)] * 3


@pytest.mark.parametrize("where", ["same connection", "another connection", "after its end"])
def test_what_an_app_has_kept_works_no_more(served: Served, client: Wire, where: str) -> None:
    """write(), start_response and the body of a request that is over."""
    with connect(served) as first:
        user = client if where != "same connection" else first
        assert first.get("/keeps").body == FIVE
        if where == "after its end":
            first.sock.close()
        answer = user.get("/reuses")
        assert (answer.body, answer.complete) == (TEN, True)
        for wire in {first, user}:
            if where != "after its end" or wire is user:
                wire.send(HELLO)
                assert wire.response().body == b"hello"
            assert b"Evil" not in wire.raw
    assert "worker-bug" not in served.news()


# --- an app that wants to end the worker

ENDS = {"/body/exits-first": (500, b"500 Internal Server Error\n"), "/close/raises": (200, TEN),
        "/close/exits": (200, TEN), "/close/interrupts": (200, TEN)}  # fmt: skip


@pytest.mark.parametrize("path", ENDS)
def test_an_app_can_not_end_the_worker(served: Served, client: Wire, path: str) -> None:
    """Nor its connection, when the response is complete."""
    client.send(request(path) + HELLO)
    answer = client.response()
    assert (answer.status, answer.body) == ENDS[path]
    assert client.response().body == b"hello" and served.worker.process.poll() is None


# --- what must not go out


@pytest.mark.parametrize("what", SAYS_BADLY)
@pytest.mark.parametrize("how", SAYING)
def test_nothing_is_smuggled_into_a_head(served: Served, client: Wire, how: str, what: str) -> None:
    client.send(request(f"/says/{how}/{what}") + HELLO)
    answer = client.response()
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
    assert goes_on(client, answer)
    assert b"Evil" not in client.raw


# --- request bodies


def with_length(body: bytes) -> tuple[bytes, bytes]:
    return b"Content-Length: %d" % len(body), body


def in_chunks(body: bytes) -> tuple[bytes, bytes]:
    half = len(body) // 2
    chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]))
    return b"Transfer-Encoding: chunked", b"".join(chunks) + b"0\r\nX-Trailer: 1\r\n\r\n"


@pytest.mark.parametrize("size", [10, 700_000])
@pytest.mark.parametrize("path", ["/hello", "/reads-some", "/raises", "/unread/304", "/environ/input", "/echo"])
def test_a_body_that_nobody_reads_is_not_the_next_request(client: Wire, path: str, size: int) -> None:
    """Though it looks like one."""
    body = (b"GET /raises HTTP/1.1\r\nHost: test\r\n\r\n" * (size // 30 + 1))[:size]
    for framed in (with_length, in_chunks):
        field, data = framed(body)
        client.send(request(path, field, method=b"POST", body=data) + HELLO + request("/dump"))
        client.response()
        assert client.response().body == b"hello"
        assert json.loads(client.response().body)["PATH_INFO"] == "/dump"


LENGTH, CHUNKED = b"Content-Length: 10", b"Transfer-Encoding: chunked"
TRUNCATED: dict[str, tuple[bytes, bytes]] = {
    "nothing of a body": (LENGTH, b""),
    "half a body": (LENGTH, FIVE),
    "half a body, on disk": (b"Content-Length: 2000000", b"x" * 1_000_000),
    "no chunk": (CHUNKED, b""),
    "a chunk": (CHUNKED, CHUNK),
    "half a chunk": (CHUNKED, b"5\r\n123"),
    "a chunk without its end": (CHUNKED, b"5\r\n12345"),
    "half a size": (CHUNKED, CHUNK + b"5"),
    "half a last chunk": (CHUNKED, CHUNK + b"0"),
    "no end behind the last chunk": (CHUNKED, CHUNK + b"0\r\n"),
    "half a trailer": (CHUNKED, CHUNK + b"0\r\nX-Trailer: 1\r\n"),
    "a chunk, on disk": (CHUNKED, b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n"),
}
BAD_CHUNKS: dict[str, bytes] = {
    "no size": CHUNK + b"\r\n12345\r\n0\r\n\r\n",
    "a size that is none": CHUNK + b"zz\r\n12345\r\n0\r\n\r\n",
    "a negative size": CHUNK + b"-5\r\n12345\r\n0\r\n\r\n",
    "a size with 0x": CHUNK + b"0x5\r\n12345\r\n0\r\n\r\n",
    "a size with a sign": CHUNK + b"+5\r\n12345\r\n0\r\n\r\n",
    "a size with an underscore": CHUNK + b"0_5\r\n12345\r\n0\r\n\r\n",
    "more than its size": b"4\r\n12345\r\n0\r\n\r\n",
    "less than its size": b"6\r\n12345\r\n0\r\n\r\n",
    "a size of a hundred digits": b"0" * 99 + b"5\r\n12345\r\n0\r\n\r\n" + b"f" * 100 + b"\r\n",
    "a size beyond all memory": CHUNK + b"fffffffffffffffff\r\n",
    "a trailer that is none": CHUNK + b"0\r\nbad\r\n\r\n",
}


@pytest.mark.parametrize("what", TRUNCATED)
@pytest.mark.parametrize("end", ["half-closed", "reset"])
def test_half_a_request_does_not_reach_the_app(served: Served, name: str, what: str, end: str) -> None:
    field, body = TRUNCATED[what]
    with connect(served) as client:
        client.send(request(f"/echo?{name}", field, method=b"POST", body=body))
        if end == "half-closed":
            client.sock.shutdown(socket.SHUT_WR)
            assert b" 200 " not in client.rest()
        else:
            client.reset()
    eventually(lambda: served.worker.ping().connections == 0)
    assert state(served, name)["called"] == 0


@pytest.mark.parametrize("what", BAD_CHUNKS)
def test_bad_chunks_do_not_reach_the_app(served: Served, client: Wire, name: str, what: str) -> None:
    client.send(request(f"/echo?{name}", CHUNKED, method=b"POST", body=BAD_CHUNKS[what]))
    assert client.response().status in (400, 413) and client.closed()
    assert state(served, name)["called"] == 0


def test_request_headers(client: Wire) -> None:
    """As a proxy or an attacker might send them; one of each rule."""
    fields = [b"X-Two: 1", b"Cookie: a=1", b"x-two: 2", b"Cookie: b=2", b"X_Real_IP: 6.6.6.6", b"Content_Length: 9",
              b"Proxy: http://6.6.6.6", b"X-Bytes: \xff\xc3\xa4", b"X-Empty:", b"X-Spaced: \t a \t b\t "]  # fmt: skip
    trailed = request("/dump", *fields, CHUNKED, method=b"POST", body=CHUNK + b"0\r\nX-Two: 3\r\nX-Late: 1\r\n\r\n")
    client.send(trailed)
    seen = json.loads(client.response().body)
    seen["HTTP_X_TWO"] = seen["HTTP_X_TWO"].replace(" ", "")  # RFC 9110 5.3: a comma, and white space if you like
    assert {key: value for key, value in seen.items() if key.startswith(("HTTP_", "CONTENT_"))} == {
        "HTTP_HOST": "test", "HTTP_X_TWO": "1,2", "HTTP_COOKIE": "a=1; b=2", "HTTP_X_BYTES": "\xff\xc3\xa4",
        "HTTP_X_EMPTY": "", "HTTP_X_SPACED": "a \t b", "CONTENT_LENGTH": "5",
    }  # fmt: skip
    assert seen["SCRIPT_NAME"] == ""


# --- close()

CLOSED_ONCE = [
    *(("GET", "1.1", path) for path in (
        "/body", "/body/long", "/body/204", "/body/204-with-one", "/body/304-written", "/body/exits-first",
        "/body/raises-first", "/body/whole-then-raises", "/short/iterator", "/short/text", "/chunked/raises",
        "/chunked/exits", "/close/raises", "/close/exits", "/close/no-start", "/close/not-iterable", "/close/file",
        "/close/short-file", "/close/after-write",
    )),
    *(("HEAD", "1.1", path) for path in ("/body", "/body/long", "/close/file", "/close/no-start", "/close/exits")),
    *(("GET", "1.0", path) for path in ("/body", "/chunked/raises", "/close/file")),
]  # fmt: skip


@pytest.mark.parametrize("asked", CLOSED_ONCE, ids=" ".join)
def test_close_is_called_once(served: Served, client: Wire, name: str, asked: tuple[str, str, str]) -> None:
    method, version, path = asked
    client.send(request(f"{path}?{name}", b"Connection: close", method=method.encode(), version=version.encode()))
    client.rest()
    eventually(lambda: state(served, name)["closed"])
    assert served.at.get("/").status == 200
    assert state(served, name)["closed"] == 1


@pytest.fixture(params=["closed", "reset"])
def go(request: pytest.FixtureRequest) -> Callable[[Client], None]:
    """How a client goes."""
    return Client.reset if request.param == "reset" else lambda client: client.sock.close()


@pytest.mark.parametrize("path", ["/gone/endless", "/gone/large", "/gone/writes", "/gone/gate"])
def test_close_is_called_once_when_the_client_goes(
    served: Served, name: str, tmp_path: Path, path: str, go: Callable[[Client], None]
) -> None:
    client = connect(served)
    client.send(request(f"{path}?{name}", b"X-Gate: %b" % str(tmp_path).encode()))
    if path == "/gone/gate":
        eventually((tmp_path / "entered").exists)
    else:
        assert client._more()
    go(client)
    (tmp_path / "go").touch()
    eventually(lambda: state(served, name)["closed"])
    eventually(lambda: served.worker.ping().connections == 0)
    assert state(served, name)["closed"] == 1


# --- what must not wait for the rest of the response


@pytest.mark.parametrize("path", ["/write/waits", "/hints/waits"])
def test_what_is_said_early_arrives_early(client: Wire, tmp_path: Path, path: str) -> None:
    """The app goes on only when the client has it."""
    client.send(request(path, b"X-Gate: %b" % str(tmp_path).encode()))
    while b"\r\n\r\n" not in client.buffer:
        assert client._more(), client.buffer
    (tmp_path / "go").touch()
    answer = client.response()
    if answer.status == 103:
        answer = client.response()
    assert answer.body in (FIVE, TEN) and answer.complete


# --- wsgi.early_hints (RFC 8297)

HINTED = {
    "/hints": ["</style.css>; rel=preload; as=style"],
    "/hints/iterator": ["</style.css>; rel=preload; as=style"],
    "/hints/twice": ["</style.css>; rel=preload; as=style", "</b.js>; rel=preload"],
}


@pytest.mark.parametrize("path", HINTED)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_early_hints_come_first(client: Wire, path: str, method: bytes) -> None:
    client.send(request(path, method=method) + HELLO)
    for link in HINTED[path]:
        early = client.response(head=True)  # whatever it is
        assert (early.status, early.headers["link"]) == (103, link)
        assert not {"content-length", "transfer-encoding", "connection"} & set(early.headers)
    final = client.response(head=method == b"HEAD")
    assert (final.status, final.body) == (200, b"" if method == b"HEAD" else FIVE)
    assert "link" not in final.headers and goes_on(client, final)


def test_http_1_0_knows_no_early_hints(client: Wire) -> None:
    client.send(request("/hints", version=b"1.0"))
    answer = client.response()
    assert (answer.status, answer.body) == (200, FIVE) and b" 103 " not in client.raw


@pytest.mark.parametrize("what", ["inject", "inject-name", "no-strings", "hop-by-hop", "length", "late"])
def test_early_hints_smuggle_nothing(client: Wire, what: str) -> None:
    """Refused or ignored; and none come in the middle of a body."""
    client.send(request(f"/hints/{what}") + HELLO)
    answer = client.response()
    if answer.status == 103:
        assert "content-length" not in answer.headers
        answer = client.response()
    assert (answer.status, answer.body) in ((200, FIVE), (200, TEN), (500, b"500 Internal Server Error\n"))
    assert goes_on(client, answer)
    assert b"Evil" not in client.raw and client.raw.find(b" 103 ", 20) == -1


def test_the_worker_has_found_no_bug_in_itself(served: Served) -> None:
    """The last test of the module."""
    assert "worker-bug" not in served.worker.log() and served.worker.process.poll() is None
