"""The environ of a request."""

from io import BytesIO
from typing import Any

import pytest

from graceserve.options import FORWARDED_HEADERS
from graceserve.worker.environ import Environs, Peer, Route, Site, constants
from graceserve.worker.forwarded import Trust
from graceserve.worker.http.h11_port import H11Heads
from graceserve.worker.http.memo import Memo
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.port import Limits
from graceserve.worker.http.reader import Reader

TCP = Route(Site("127.0.0.1:8000", "127.0.0.1", "8000"), Peer("10.0.0.9", 1234))
LOCAL = Route(TCP.site, Peer("127.0.0.1", 1234))
SECURE = Route(TCP.site, Peer("10.0.0.9", 1234), secure=True)
UNIX = Route(Site("unix:/run/a.sock"), Peer())


def made(
    head: str,
    route: Route = TCP,
    *,
    body: bytes = b"",
    threads: int = 1,
    script_name: str = "",
    believed: tuple[str, ...] = ("x-forwarded-for", "x-forwarded-proto"),
) -> dict[str, Any]:
    constant = constants(threads, 3, "draining", "errors", "wrapper")
    environs = Environs(constant, Trust.of("127.0.0.1,::1,unix"), frozenset(believed), script_name)
    stranger = Route(route.site, Peer("10.9.9.9", 99) if route.peer.address else Peer(), route.secure)
    neighbour = Route(route.site, Peer(route.peer.address, route.peer.port and 77), route.secure)
    portless = Route(route.site, Peer(route.peer.address), route.secure)
    for each in (route, stranger, neighbour, portless):
        environs.welcome(each)
    line, _, fields = head.partition("\n")
    heads, forgetful = H11Heads(), Memo(Limits(), 0)
    first = None
    for _ in range(4):  # at first the fields are unknown, then remembered
        other = f"HEAD /other?x {line[-8:]}"
        for each, each_line in ((route, line), (stranger, other), (neighbour, line), (portless, line)):
            seen = []
            for memo in (None, forgetful):
                reader = Reader(heads, Limits(), memo)
                environ = environs.make(request(reader, each_line, fields), BytesIO(body), len(body), each)
                assert environ.pop("wsgi.input").read() == body
                seen.append(environ.copy())
                environ.clear()
            assert seen[0] == seen[1], "what is remembered changes nothing"
            first = first or seen[0]
    assert first is not None
    return first


def request(reader: Reader, line: str, fields: str) -> Admitted:
    text = f"{line}\n{fields}\n\n" if fields else f"{line}\n\n"
    reader.receive(text.replace("\n", "\r\n").encode("latin-1"))
    event = reader.next_event()
    assert isinstance(event, Admitted), event
    return event


def test_a_plain_request() -> None:
    environ = made("GET /caf%C3%A9%2f?a=%20b HTTP/1.1\nHost: example.org:81\nX-Two: 2\nAccept: x")
    assert environ == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/caf\xc3\xa9/",
        "QUERY_STRING": "a=%20b",
        "RAW_URI": "/caf%C3%A9%2f?a=%20b",
        "REQUEST_URI": "/caf%C3%A9%2f?a=%20b",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "graceserve",
        "REMOTE_ADDR": "10.0.0.9",
        "REMOTE_PORT": "1234",
        "HTTP_HOST": "example.org:81",
        "HTTP_X_TWO": "2",
        "HTTP_ACCEPT": "x",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": "errors",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": "wrapper",
        "graceserve.generation": 3,
        "graceserve.draining": "draining",
    }


def test_a_broken_escape_stays_as_it_is() -> None:
    assert made("GET /%zz%4 HTTP/1.0")["PATH_INFO"] == "/%zz%4"


def test_a_body_has_a_type_and_a_length() -> None:
    environ = made("POST / HTTP/1.1\nHost: a\nContent-Type: text/x\nContent-Length: 3", body=b"abc")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/x", "3")
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & set(environ)


def test_a_chunked_body_has_a_length_too() -> None:
    environ = made("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked", body=b"abcd")
    assert environ["CONTENT_LENGTH"] == "4"
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_without_a_body_there_is_no_length() -> None:
    assert "CONTENT_LENGTH" not in made("GET / HTTP/1.0")


def test_a_length_of_zero_is_said() -> None:
    assert made("POST / HTTP/1.1\nHost: a\nContent-Length: 0")["CONTENT_LENGTH"] == "0"


def test_repeated_headers_are_joined() -> None:
    environ = made("GET / HTTP/1.1\nHost: a\nX: 1\nX: 2\nCookie: a=1\nCookie: b=2")
    assert (environ["HTTP_X"], environ["HTTP_COOKIE"]) == ("1, 2", "a=1; b=2")


def test_the_target_s_host_replaces_the_header() -> None:
    assert made("GET http://b:9/ HTTP/1.1\nHost: a")["HTTP_HOST"] == "b:9"


@pytest.mark.parametrize(
    ("route", "headers", "scheme"),
    [
        (LOCAL, "X-Forwarded-Proto: https", "https"),
        (UNIX, "X-Forwarded-Proto: HTTPS", "https"),
        (TCP, "X-Forwarded-Proto: https", "http"),  # anybody could say so
        (LOCAL, "X-Forwarded-Proto: http", "http"),
        (LOCAL, "X-Forwarded-Proto: https\nX-Forwarded-Proto: http", "http"),
        (SECURE, "Accept: x", "https"),
        (LOCAL, "X_Forwarded_Proto: https", "http"),
        (LOCAL, "Accept: x", "http"),
    ],
)
def test_the_scheme_is_believed_from_this_machine_only(route: Route, headers: str, scheme: str) -> None:
    assert made(f"GET / HTTP/1.1\nHost: a\n{headers}", route)["wsgi.url_scheme"] == scheme


@pytest.mark.parametrize(
    ("head", "server"),
    [
        ("GET / HTTP/1.1\nHost: example.org:81", ("example.org", "81")),
        ("GET / HTTP/1.1\nHost: example.org", ("example.org", "80")),
        ("GET / HTTP/1.1\nHost: example.org\nX-Forwarded-Proto: https", ("example.org", "443")),
        ("GET / HTTP/1.1\nHost: [::1]", ("[::1]", "80")),
        ("GET / HTTP/1.0", ("localhost", "80")),
    ],
)
def test_behind_a_unix_socket_the_client_names_the_server(head: str, server: tuple[str, str]) -> None:
    environ = made(head, UNIX)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == server
    assert environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in environ


def test_threads_are_told() -> None:
    assert made("GET / HTTP/1.0", threads=4)["wsgi.multithread"] is True


def test_a_trusted_proxy_tells_the_client() -> None:
    told = "GET / HTTP/1.1\nHost: a\nX-Forwarded-For: 9.9.9.9, 203.0.113.7"
    environ = made(told, LOCAL)
    assert environ["REMOTE_ADDR"] == "203.0.113.7" and "REMOTE_PORT" not in environ
    assert made(told, UNIX)["REMOTE_ADDR"] == "203.0.113.7"
    stranger = made(told, TCP)
    assert (stranger["REMOTE_ADDR"], stranger["REMOTE_PORT"]) == ("10.0.0.9", "1234")


def test_what_is_not_named_is_not_believed() -> None:
    told = "GET /x HTTP/1.1\nHost: a:8\nX-Forwarded-Host: b\nX-Forwarded-Port: 444\nX-Forwarded-Prefix: /p"
    environ = made(told, LOCAL)
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"], environ["SCRIPT_NAME"]) == ("a:8", "8000", "")
    environ = made(told, LOCAL, believed=FORWARDED_HEADERS)
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"], environ["SCRIPT_NAME"]) == ("b:444", "444", "/p")
    assert environ["PATH_INFO"] == "/x", "the proxy has taken the prefix off"


@pytest.mark.parametrize(
    ("path", "script_name", "path_info"),
    [("/shop/x", "/shop", "/x"), ("/shop", "/shop", ""), ("/shopping", "", "/shopping"), ("/healthz", "", "/healthz")],
)
def test_an_app_below_a_prefix(path: str, script_name: str, path_info: str) -> None:
    environ = made(f"GET {path} HTTP/1.1\nHost: a", script_name="/shop")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)
