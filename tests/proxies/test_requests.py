"""Requests and responses of all shapes, through every front."""

import hashlib
import os
import uuid

import pytest

from tests.process import web
from tests.process.apps import Gate
from tests.proxies import curl
from tests.proxies.fronts import (
    BODY_BYTES_MAX,
    FIELD_BYTES_MAX,
    FIELDS_MAX,
    FILE_BYTES,
    LINE_BYTES_MAX,
    Front,
    Kind,
    Lab,
    Tells,
    through,
)

UPLOAD = os.urandom(2_000_000)
BROKEN = (18, 56)  # CURLE_PARTIAL_FILE, CURLE_RECV_ERROR
ROUNDS = 8  # requests in a row that are to share connections


def modern(kind: Kind) -> bool:
    """The client speaks HTTP/1.1."""
    return kind.shapes and not kind.old


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- requests


@through(lambda kind: True)
def test_get(front: Front) -> None:
    """Path, query, method and Host are what the client sent."""
    answer = front.ask("/echo/%E4%B8%AD%20x?q=a%26b&c", "-H", "Host: shop.example:8080")
    assert answer.status == 200, answer
    seen = answer.json["environ"]
    assert seen["REQUEST_METHOD"] == "GET"
    assert seen["PATH_INFO"].encode("latin-1").decode() == "/echo/中 x"
    assert seen["QUERY_STRING"] == "q=a%26b&c"
    assert seen["HTTP_HOST"] == "shop.example:8080"
    assert answer.headers["content-type"] == "application/json"
    assert "date" in answer.headers


@through()
def test_head(front: Front) -> None:
    """The header of the GET, without its body, and the connection is good for the next request."""
    answer = front.ask_all(("/file", "/stream", "/same"), "-I")
    assert answer.code == 0, answer
    assert (answer.statuses, answer.facts[0]["size_download"]) == ([200, 200, 200], 0)
    assert f"content-length: {FILE_BYTES}\r\n" in answer.heads[0].lower() + "\r\n"
    assert "content-length" not in answer.heads[1].lower()
    if not front.kind.old:
        assert answer.connects == [1, 0, 0], answer


@through(lambda kind: True)
def test_upload(front: Front) -> None:
    """2 MB that say how long they are."""
    answer = front.ask("/echo", "-X", "PUT", "--data-binary", "@-", "-H", "Content-Type: image/png", body=UPLOAD)
    assert answer.status == 200, answer
    seen = answer.json
    assert (seen["body_bytes"], seen["sha256"]) == (len(UPLOAD), sha256(UPLOAD))
    assert seen["environ"]["CONTENT_LENGTH"] == str(len(UPLOAD))
    assert (seen["environ"]["CONTENT_TYPE"], seen["environ"]["REQUEST_METHOD"]) == ("image/png", "PUT")


@through(modern)
def test_chunked_upload(front: Front) -> None:
    """2 MB that don't; the app is told the length all the same."""
    answer = front.ask("/echo", "-T", "-", "-H", "Expect:", body=UPLOAD)
    assert answer.status == 200, answer
    seen = answer.json
    assert (seen["body_bytes"], seen["sha256"]) == (len(UPLOAD), sha256(UPLOAD))
    assert seen["environ"]["CONTENT_LENGTH"] == str(len(UPLOAD))


@through(modern)
def test_expectation(front: Front) -> None:
    """curl holds a body back until it is asked for it, here far longer than the transfer may take."""
    wait = ("-H", "Expect: 100-continue", "--expect100-timeout", "60", "--max-time", "10")
    for chunked in ((), ("-H", "Transfer-Encoding: chunked")):
        answer = front.ask("/echo", *wait, *chunked, "--data-binary", "@-", body=UPLOAD)
        assert answer.code == 0, answer
        assert answer.heads[0].startswith("HTTP/1.1 100"), answer.heads
        assert (answer.status, answer.json["sha256"]) == (200, sha256(UPLOAD))


def line_of(line_bytes: int) -> str:
    """A path whose request line has so many, CRLF included."""
    return "/echo?" + "q" * (line_bytes - len("GET /echo? HTTP/1.1\r\n"))


def field_of(field_bytes: int) -> list[str]:
    """curl's arguments for a field line of so many, CRLF included."""
    return ["-H", "X-Big: " + "b" * (field_bytes - len("X-Big: \r\n"))]


def fields(count: int) -> list[str]:
    """The same for so many fields."""
    return [word for number in range(count) for word in ("-H", f"X-{number}: {number}")]


@through()
def test_a_head_within_the_limits(front: Front) -> None:
    """A line and a field just below them; of fields as many as curl's own and the proxies' leave."""
    answer = front.ask(line_of(LINE_BYTES_MAX), *field_of(FIELD_BYTES_MAX), *fields(FIELDS_MAX - 10))
    assert answer.status == 200, answer
    seen = answer.json["environ"]
    assert len(seen["QUERY_STRING"]) > LINE_BYTES_MAX - 30
    assert len(seen["HTTP_X_BIG"]) > FIELD_BYTES_MAX - 30
    assert [seen[f"HTTP_X_{number}"] for number in range(FIELDS_MAX - 10)] == list(map(str, range(FIELDS_MAX - 10)))


@through()
def test_heads_over_the_limits(front: Front) -> None:
    """The server's refusal reaches the client, not a proxy's 502."""
    line, field = line_of(LINE_BYTES_MAX + 100), field_of(FIELD_BYTES_MAX + 100)
    for path, args, status in ((line, [], 414), ("/echo", field, 431), ("/echo", fields(FIELDS_MAX + 1), 431)):
        answer = front.ask(path, *args)
        assert (answer.code, answer.status) == (0, status), answer


# --- responses


@through()
def test_download(front: Front, lab: Lab) -> None:
    """3 MB by `wsgi.file_wrapper`."""
    answer = front.ask("/file")
    assert (answer.code, answer.status, sha256(answer.body)) == (0, 200, sha256(lab.content)), answer.complaint
    assert answer.headers["content-length"] == str(FILE_BYTES)


@through()
def test_stream(front: Front, lab: Lab) -> None:
    """A piece is with the client before the app makes the next."""
    gate = Gate(lab.path(f"gate-{uuid.uuid4()}"))
    process = curl.begin(lab.nursery, *front.args, *front.urls(f"/stream?{gate.path}"))
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline() == b"first\n", process.stderr.read()
        gate.open()
        assert process.stdout.read() == b"second\n"
        assert process.wait(10) == 0
    finally:
        gate.open()
        process.communicate(timeout=20)


@through()
def test_redirects(front: Front) -> None:
    """Relative and absolute ones are followed to the end."""
    answer = front.ask_all(("/gone", "/moved"), "-L", "--data-binary", "@-", body=b"a form")
    assert (answer.code, answer.statuses) == (0, [200, 200]), answer
    assert [head.split()[1] for head in answer.heads if "100 Continue" not in head] == ["303", "200", "302", "200"]
    for seen in answer.jsons:
        assert (seen["environ"]["REQUEST_METHOD"], seen["environ"]["QUERY_STRING"]) == ("GET", "redirected")


@through()
def test_without_a_body(front: Front) -> None:
    """204 and 304 have none, and the next response is not taken for theirs."""
    paths = ("/nothing", "/same", "/echo?after")
    answer = front.ask_all(paths, "-H", 'If-None-Match: "1"')
    assert (answer.code, answer.statuses) == (0, [204, 304, 200]), answer
    assert answer.json["environ"]["QUERY_STRING"] == "after"
    assert "transfer-encoding" not in answer.heads[0].lower() + answer.heads[1].lower()
    assert "content-length" not in answer.heads[0].lower()
    if not front.kind.old:
        assert answer.connects == [1, 0, 0], answer


@through()
def test_error_pages(front: Front) -> None:
    """The app's own, the server's for an app that breaks, and the connection serves on."""
    answer = front.ask_all(("/busy", "/broken", "/echo"))
    assert (answer.code, answer.statuses) == (0, [503, 500, 200]), answer
    assert b'"come back later"' in answer.body
    assert b"broken on purpose" not in answer.body


@through()
def test_a_response_that_breaks(front: Front) -> None:
    """The client can tell that it has not all of it: by the length, by the last chunk, or by a reset."""
    answer = front.ask_all(("/cut?length", "/cut"))
    assert answer.statuses == [200, 200], answer
    by_length, by_end = (fact["exitcode"] for fact in answer.facts)
    assert by_length in BROKEN, answer
    # in HTTP/1.0 the end of the connection is the end of the body, and a Unix socket knows no reset
    assert by_end in ((0,) if front.kind.old and front.unix else BROKEN), answer


@through(lambda kind: kind.tells is Tells.ITSELF)
def test_compression_is_left_alone(front: Front) -> None:
    """`--compressed`: offered, not taken."""
    answer = front.ask("/echo", "--compressed")
    assert (answer.code, answer.status) == (0, 200), answer
    assert "gzip" in answer.json["environ"]["HTTP_ACCEPT_ENCODING"]
    assert "content-encoding" not in answer.headers


# --- connections


@through(lambda kind: not kind.old)
def test_the_client_keeps_its_connection(front: Front) -> None:
    """Uploads, downloads and errors over one; from the front to the server no more than a few."""
    paths = ("/echo", "/file", "/echo", "/lost", "/echo", "/nothing") + ("/echo",) * ROUNDS  # Apache closes after 503
    answer = front.ask_all(paths, "-o", os.devnull)
    assert (answer.code, answer.connects) == (0, [1] + [0] * (len(paths) - 1)), answer
    few_connections(front.ask_all(("/echo",) * ROUNDS))


@through(lambda kind: kind.tells is Tells.HEADERS)
def test_the_proxy_keeps_its_connections(front: Front) -> None:
    """Also for clients that come and go."""
    answer = front.ask_all(("/echo",) * ROUNDS, "-H", "Connection: close")
    assert answer.connects == [1] * ROUNDS, answer
    few_connections(answer)


def few_connections(answer: curl.Answer) -> None:
    """From the front to the server; health checks of other proxies connect meanwhile, too."""
    seen = [set(one["sockets"]) for one in answer.jsons]
    assert len(seen) == ROUNDS
    fresh = set().union(*seen[1:]) - seen[0]
    assert len(fresh) < ROUNDS / 2, fresh


@through(lambda kind: kind.old)
def test_an_old_client_that_asks_for_it_keeps_its_connection(front: Front) -> None:
    """HTTP/1.0 with `Connection: keep-alive`, which ab and old proxies send."""
    answer = front.ask_all(("/echo", "/same", "/echo"), "-H", "Connection: keep-alive")
    assert (answer.code, answer.statuses) == (0, [200, 200, 200]), answer
    assert answer.connects == [1, 0, 0], answer.heads
    assert answer.headers["connection"].lower() == "keep-alive"


# --- bodies that are too large


@through(modern)
@pytest.mark.parametrize("how", ["length", "chunked", "expecting"])
def test_a_body_that_is_too_large(front: Front, how: str) -> None:
    """413 comes to the client, though it is still sending; not the proxy's 502."""
    args = {
        "length": ("--data-binary", "@-", "-H", "Expect:"),
        "chunked": ("-T", "-", "-H", "Expect:"),
        "expecting": ("--data-binary", "@-", "-H", "Expect: 100-continue", "--expect100-timeout", "60"),
    }
    answer = front.ask("/echo", *args[how], body=bytes(BODY_BYTES_MAX + 2_000_000))
    assert answer.status == 413, answer


def test_what_answers_is_graceserve(lab: Lab) -> None:
    """That the app answers says little if another server runs it."""
    server = lab.server("inline")
    assert web.get(server.address, "/echo").json["environ"]["SERVER_SOFTWARE"].startswith("graceserve")
