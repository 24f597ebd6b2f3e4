"""What PEP 3333 allows an app, in a real worker with `wsgiref.validate` between the two; inline and with threads."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from urllib.parse import quote

import pytest

from tests.http.harness import Client
from tests.wsgi.serving import Crew, Served
from tests.wsgi.validated import BODY, ERRORS_TOLD, KINDS, READERS, REFUSED_BY_VALIDATOR

APP = "tests.wsgi.validated:app"
AFTER = b"GET /bare/list HTTP/1.1\r\nHost: test\r\n\r\n"
COMPLAINT = re.compile("Assertion|Warning|Traceback|Exception|garbage|ERROR|WARN")
WAYS = {name: ["bare"] if kind.bare_only else ["checked", "bare"] for name, kind in KINDS.items()}
READ_WAYS = {name: ["bare"] if name in REFUSED_BY_VALIDATOR else ["checked", "bare"] for name in READERS}


@pytest.fixture
def served(crew: Crew, mode: str) -> Served:
    return crew.of(APP, mode)


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with served.at.connect() as made:
        yield made


def in_order(client: Client) -> bool:
    """What came last spoils nothing that comes next."""
    return client.response().body == BODY


def no_complaint(served: Served) -> bool:
    return COMPLAINT.search(served.news()) is None


# --- responses


@dataclass(frozen=True)
class Asked:
    """How a kind is asked for."""

    method: bytes
    version: bytes
    fields: bytes = b""


ASKED = (
    Asked(b"GET", b"1.1"),
    Asked(b"HEAD", b"1.1"),
    Asked(b"GET", b"1.0", b"Connection: keep-alive\r\n"),
    Asked(b"HEAD", b"1.0", b"Connection: keep-alive\r\n"),
    Asked(b"GET", b"1.0"),
)


@pytest.mark.parametrize(
    ("way", "kind"), [pytest.param(way, name, id=f"{way}-{name}") for name in KINDS for way in WAYS[name]]
)
def test_what_an_app_may_return(served: Served, way: str, kind: str) -> None:
    told = KINDS[kind]
    served.news()
    for asked in ASKED:
        with served.at.connect() as client:
            head = b"%b /%b HTTP/%b\r\nHost: test\r\n%b\r\n"
            client.send(head % (asked.method, quote(f"{way}/{kind}").encode(), asked.version, asked.fields) + AFTER)
            answer = client.response(head=asked.method == b"HEAD")
            assert answer.status == told.status, (asked, answer, served.news())
            assert answer.body == (b"" if asked.method == b"HEAD" else told.body) and answer.complete, asked
            assert "set-cookie" not in answer.headers, "the head that was taken back"
            if answer.headers.get("connection") == "close":
                assert asked.version == b"1.0" and client.closed()
            else:
                assert in_order(client), asked
            assert no_complaint(served), asked


@pytest.mark.parametrize(
    "kind", ["list", "list of three", "tuple", "empty list", "empty generator", "iterable with a length of one"]
)
def test_what_is_known_as_a_whole_has_a_length(client: Client, kind: str) -> None:
    """PEP 3333, "Handling the Content-Length Header"."""
    answer = client.get(f"/bare/{quote(kind)}")
    assert answer.headers.get("content-length") == str(len(KINDS[kind].body))


def test_the_log_has_what_the_app_told(served: Served, client: Client) -> None:
    served.news()
    client.get("/checked/a%20word%20to%20the%20log")
    assert [line for line in served.news().splitlines() if line in (ERRORS_TOLD, "a", "b")] == [ERRORS_TOLD, "a", "b"]


# --- request bodies

LINES = b"one\ntwo\r\n\nno end"
LARGE = b"".join(b"line %d\n" % number for number in range(60_000))  # more than the worker keeps in memory
LONG = b"x" * 20_000
BODIES = {"none": None, "empty": b"", "a line": b"one\n", "lines": LINES, "one long line": LONG, "large": LARGE}


def with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    """Of uneven sizes, with an extension and a trailer."""
    cuts = (0, 1, 3, 9, 5_000, 70_000, 70_001, 1 << 30)
    pieces = [body[at:end] for at, end in pairwise(cuts)]
    chunks = [b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
    return b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\nX-Trailer: 1\r\n\r\n"


FRAMINGS = (with_length, in_chunks)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("way", "how"), [pytest.param(way, how, id=f"{way}-{how}") for how in READERS for way in READ_WAYS[how]]
)
def test_how_an_app_may_read(served: Served, client: Client, way: str, how: str, body: str) -> None:
    served.news()
    data = BODIES[body]
    for framed in FRAMINGS:
        head = b"POST /%b HTTP/1.1\r\nHost: test\r\n" % quote(f"{way}/read/{how}").encode()
        client.send(head + (b"\r\n" if data is None else framed(data)) + AFTER)
        answer = client.response()
        assert answer.status == 200, (framed, served.news())
        assert answer.body == repr(READERS[how](BytesIO(data or b""))).encode(), framed
        assert answer.headers["x-length"] == ("" if data is None else str(len(data)))
        assert in_order(client), framed
    assert no_complaint(served)


# --- what the validator looks at in environ

ODD_REQUESTS = {
    "no host": b"GET / HTTP/1.0\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n",
    "two slashes": b"GET //a//b HTTP/1.1\r\nHost: test\r\n",
    "bytes that are no UTF-8": b"GET /%ff%00%0d%0a?%ff HTTP/1.1\r\nHost: test\r\nX: \xff\r\n",
    "only a query": b"GET /?a HTTP/1.1\r\nHost: test\r\n",
    "an empty query": b"GET /? HTTP/1.1\r\nHost: test\r\n",
    "absolute form": b"GET http://other:81/path HTTP/1.1\r\nHost: test\r\n",
    "absolute form without a path": b"GET http://other HTTP/1.1\r\nHost: test\r\n",
    "absolute form, only a query": b"GET http://other?a=b HTTP/1.1\r\nHost: test\r\n",
    "all of the server": b"OPTIONS * HTTP/1.1\r\nHost: test\r\n",
    "names like variables": b"GET / HTTP/1.1\r\nHost: test\r\nWsgi.Input: x\r\nContent_Type: x\r\nPath-Info: x\r\n",
    "names with a place of their own": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Length: 0\r\n",
    "many of one name": b"GET / HTTP/1.1\r\nHost: test\r\n" + b"X-A: 1\r\nCookie: a=b\r\n" * 20,
    "DELETE": b"DELETE / HTTP/1.1\r\nHost: test\r\n",
    "PATCH": b"PATCH / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n",
}  # fmt: skip


@pytest.mark.parametrize("raw", ODD_REQUESTS.values(), ids=ODD_REQUESTS)
def test_environ_is_in_order(served: Served, client: Client, raw: bytes) -> None:
    served.news()
    client.send(raw + b"\r\n")
    assert (client.response().body, served.news()) == (BODY, "")


def test_nothing_was_left_open(served: Served, client: Client) -> None:
    """Files and iterators that nobody closed complain when they are collected. The last test of the module."""
    served.news()
    assert client.get("/bare/collect").body == b"collected"
    assert no_complaint(served)
