"""Requests, good and hostile, through the parser and the policy: whole, byte by byte, and in every pair of pieces."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceserve.worker.http.h11_port import H11Parser
from graceserve.worker.http.policy import Admitted, Refused, admit
from graceserve.worker.http.port import END, Broken, Head, Limits, Parser

LIMITS = Limits(line_bytes_max=200, head_bytes_max=1000, fields_max=10, body_bytes_max=1000)
PARSERS: list[Callable[[Limits], Parser]] = [H11Parser]

Read = tuple[Admitted, bytes]


def read(make: Callable[[Limits], Parser], pieces: Iterable[bytes]) -> tuple[list[Read], int, int]:
    """The complete requests, the status that the rest was refused with (0: it was not), bytes held."""
    parser = make(LIMITS)
    done: list[Read] = []
    now: Admitted | None = None
    body = b""
    for piece in pieces:
        parser.receive(piece)
        while (event := parser.next_event()) is not None:
            if isinstance(event, Broken):
                return done, event.status, parser.held_bytes
            if isinstance(event, Head):
                admitted = admit(event, LIMITS)
                if isinstance(admitted, Refused):
                    return done, admitted.status, parser.held_bytes
                now, body = admitted, b""
            elif event is END:
                assert now is not None
                done.append((now, body))
            else:
                assert event, "a piece of the body is never empty"
                body += event
    return done, 0, parser.held_bytes


def all_ways(raw: bytes) -> list[list[bytes]]:
    return [[raw], [bytes((byte,)) for byte in raw], *([raw[:cut], raw[cut:]] for cut in range(1, len(raw), 7))]


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

HOSTILE = {
    # the request line
    "no version": (b"GET /\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "trailing space": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "leading space": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "method with a separator": (b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "endless method": (b"G" * 40 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/3": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "lower-case http": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "two-digit version": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "control character in the target": (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "NUL in the target": (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "high byte in the target": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "long line": (b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "long line without an end": (b"GET /" + b"a" * 300, 414),
    # the target
    "relative target": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "GET *": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "user info": (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "other scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute without host": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # Host
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (GET + b"Host: b\r\n\r\n", 400),
    "the same Host twice": (GET + b"Host: a\r\n\r\n", 400),
    "two Hosts in one": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "Host with user info": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "Host with a bad port": (b"GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", 400),
    "Host with a high byte": (b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n", 400),
    # lines
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "one bare LF": (GET + b"X: y\nZ: z\r\n\r\n", 400),
    "bare CR": (GET + b"X: y\rZ: z\r\n\r\n", 400),
    "bare LF before the blank line": (GET + b"X: y\n\r\n", 400),
    "folded": (GET + b"X: y\r\n z\r\n\r\n", 400),
    "folded with a tab": (GET + b"X: y\r\n\tz\r\n\r\n", 400),
    "fold in front": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    # header fields
    "space before the colon": (GET + b"X : y\r\n\r\n", 400),
    "no colon": (GET + b"X\r\n\r\n", 400),
    "empty name": (GET + b": y\r\n\r\n", 400),
    "bad name": (GET + b"X(: y\r\n\r\n", 400),
    "NUL in a value": (GET + b"X: \x00\r\n\r\n", 400),
    "control character in a value": (GET + b"X: a\x01b\r\n\r\n", 400),
    "DEL in a value": (GET + b"X: a\x7fb\r\n\r\n", 400),
    "many fields": (GET + b"X: y\r\n" * 11 + b"\r\n", 431),
    "large head": (GET + b"X: " + b"y" * 1000 + b"\r\n\r\n", 431),
    "large head without an end": (GET + b"X: " + b"y" * 1100, 431),
    "two Content-Types": (POST + b"Content-Type: a\r\nContent-Type: b\r\n\r\n", 400),
    "unknown expectation": (POST + b"Content-Length: 1\r\nExpect: 200-ok\r\n\r\n", 417),
    # framing
    "length and coding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "coding and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
    "two lengths in one": (POST + b"Content-Length: 3, 4\r\n\r\n", 400),
    "signed length": (POST + b"Content-Length: +3\r\n\r\n", 400),
    "negative length": (POST + b"Content-Length: -3\r\n\r\n", 400),
    "hexadecimal length": (POST + b"Content-Length: 0x3\r\n\r\n", 400),
    "length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n", 400),
    "empty length": (POST + b"Content-Length: \r\n\r\n", 400),
    "endless length": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "body over the limit": (POST + b"Content-Length: 1001\r\n\r\n", 413),
    "unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "two codings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "coding with a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunk size with 0x": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "signed chunk size": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "negative chunk size": (CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n", 400),
    "no chunk size": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", 400),
    "endless chunk size": (CHUNKED + b"1" * 30 + b"\r\n", 400),
    "chunk size line with bare LF": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    "chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    "endless chunk extension": (CHUNKED + b"3;" + b"x" * 30_000, 431),
    "bad trailer": (CHUNKED + b"0\r\nbad\r\n\r\n", 400),
}


@pytest.mark.parametrize("make", PARSERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_refused_however_it_arrives(name: str, make: Callable[[Limits], Parser]) -> None:
    raw, status = HOSTILE[name]
    for pieces in all_ways(raw):
        done, refused, _ = read(make, pieces)
        assert (done, refused) == ([], status), pieces[:3]


GOOD: dict[str, tuple[bytes, bytes, bytes, bytes]] = {  # raw, path, query, body
    "plain": (GET + b"\r\n", b"/", b"", b""),
    "query": (b"GET /a?b=c?d HTTP/1.1\r\nHost: a\r\n\r\n", b"/a", b"b=c?d", b""),
    "absolute": (b"GET http://b:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n", b"/x", b"y", b""),
    "absolute without path": (b"GET HTTP://b?y HTTP/1.1\r\nHost: a\r\n\r\n", b"/", b"y", b""),
    "options": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"*", b"", b""),
    "own method": (b"PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", b"/", b"", b""),
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", b"/", b"", b""),
    "empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b"/", b"", b""),
    "IPv6 Host": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b"/", b"", b""),
    "blank lines in front": (b"\r\n\r\n" + GET + b"\r\n", b"/", b"", b""),
    "length": (POST + b"Content-Length: 3\r\n\r\nabc", b"/", b"", b"abc"),
    "no body": (POST + b"Content-Length: 0\r\n\r\n", b"/", b"", b""),
    "length said twice": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", b"/", b"", b"abc"),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"/", b"", b"abcde"),
    "chunked, upper case": (CHUNKED.upper() + b"A\r\n0123456789\r\n0\r\n\r\n", b"/", b"", b"0123456789"),
    "extension and trailer": (CHUNKED + b"3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n", b"/", b"", b"abc"),
    "body with blank lines": (POST + b"Content-Length: 4\r\n\r\n\r\n\r\n", b"/", b"", b"\r\n\r\n"),
}


@pytest.mark.parametrize("make", PARSERS)
@pytest.mark.parametrize("name", GOOD)
def test_a_good_request_is_read_the_same_however_it_arrives(name: str, make: Callable[[Limits], Parser]) -> None:
    raw, path, query, body = GOOD[name]
    for pieces in all_ways(raw):
        done, refused, held = read(make, pieces)
        assert refused == 0 and held == 0, pieces[:3]
        [(request, got)] = done
        assert (request.path, request.query, got) == (path, query, body)


@pytest.mark.parametrize("make", PARSERS)
def test_pipelined_requests_come_in_order(make: Callable[[Limits], Parser]) -> None:
    raw = b"".join(entry[0] for entry in GOOD.values())
    for pieces in ([raw], [bytes((byte,)) for byte in raw]):
        done, refused, held = read(make, pieces)
        assert refused == 0 and held == 0
        assert [(request.path, body) for request, body in done] == [(entry[1], entry[3]) for entry in GOOD.values()]


@pytest.mark.parametrize("make", PARSERS)
@given(data=st.data())
def test_how_it_is_cut_makes_no_difference(make: Callable[[Limits], Parser], data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from(sorted(entry[0] for entry in [*HOSTILE.values(), *GOOD.values()])))
    raw += data.draw(st.sampled_from([b"", GET + b"\r\n", b"noise"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if start < end]
    whole, cut = read(make, [raw]), read(make, pieces)
    assert [(r.path, r.headers, body) for r, body in whole[0]] == [(r.path, r.headers, body) for r, body in cut[0]]
    assert whole[1] == cut[1]


@pytest.mark.parametrize("make", PARSERS)
@given(raw=st.binary(max_size=300))
def test_noise_is_refused_or_waited_for_but_never_crashes(make: Callable[[Limits], Parser], raw: bytes) -> None:
    read(make, [raw, b"\r\n\r\n"])


def headers_of(raw: bytes) -> dict[bytes, bytes]:
    [(request, _)] = read(H11Parser, [raw])[0]
    return dict(request.headers)


def test_ambiguous_and_dangerous_names_do_not_reach_the_app() -> None:
    seen = headers_of(GET + b"X_Forwarded_For: 1\r\nX-Real: 2\r\nProxy: http://evil\r\nContent_Length: 5\r\n\r\n")
    assert seen == {b"host": b"a", b"x-real": b"2"}


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n", True),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(head: bytes, keeps: bool) -> None:
    [(request, _)] = read(H11Parser, [head + b"\r\n"])[0]
    assert request.keep_alive is keeps


def test_the_target_s_host_wins() -> None:
    [(request, _)] = read(H11Parser, [b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"])[0]
    assert request.host == b"b"


def test_expect_is_for_http_1_1_only() -> None:
    [(new, _)] = read(H11Parser, [POST + b"Content-Length: 1\r\nExpect: 100-Continue\r\n\r\nx"])[0]
    [(old, _)] = read(H11Parser, [b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx"])[0]
    assert (new.expects_continue, old.expects_continue) == (True, False)


def test_nothing_is_held_between_requests() -> None:
    parser = H11Parser(LIMITS)
    parser.receive(POST + b"Content-Length: 1\r\n\r\nx\r\n")
    assert isinstance(parser.next_event(), Head)
    assert parser.held_bytes
    assert parser.next_event() == b"x"
    assert parser.next_event() is END
    assert not parser.held_bytes
