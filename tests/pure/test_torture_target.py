"""URLs on the command line of `graceserve torture`."""

import pytest

from graceserve.errors import OperatorError
from graceserve.torture.target import Target, parse, path_of


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:8000", Target("127.0.0.1", 8000, authority="127.0.0.1:8000")),
        ("http://127.0.0.1:8000/a/b?c=d", Target("127.0.0.1", 8000, authority="127.0.0.1:8000", path="/a/b?c=d")),
        ("http://shop.example", Target("shop.example", 80, authority="shop.example")),
        ("http://shop.example?x=1", Target("shop.example", 80, authority="shop.example", path="/?x=1")),
        ("http://[::1]:8000/", Target("::1", 8000, authority="[::1]:8000")),
        ("HTTP://localhost:1/#here", Target("localhost", 1, authority="localhost:1")),
        ("unix:/run/app.sock", Target(socket_path="/run/app.sock")),
        ("unix:///run/app.sock", Target(socket_path="/run/app.sock")),
        ("unix:app.sock:/a?b", Target(socket_path="app.sock", path="/a?b")),
        ("http://unix:/run/app.sock:/a", Target(socket_path="/run/app.sock", path="/a")),
        ("http+unix://%2Frun%2Fapp.sock", Target(socket_path="/run/app.sock")),
        ("http+unix://%2Frun%2Fapp.sock/a?b", Target(socket_path="/run/app.sock", path="/a?b")),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse(url) == target


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://shop.example/", "https is not supported"),
        ("127.0.0.1:8000", "give http://HOST:PORT/PATH"),
        ("localhost", "give http://"),
        ("", "give http://"),
        ("ftp://x/", "give http://"),
        ("http://", "give http://"),
        ("http:///path", "give http://"),
        ("http://:80/", "give http://"),
        ("http://x:0/", "no such host or port"),
        ("http://x:99999/", "Port out of range"),
        ("http://x:y/", "Port could not be cast"),
        ("http://[::1/", "Invalid IPv6 URL"),
        ("http://a b/", "no such host or port"),
        ("http://x/a b", "percent-encoded path"),
        ("http://x/\u00e4", "percent-encoded path"),
        ("http://user:secret@x/", "--header 'Authorization: ...'"),
        ("unix:", "a Unix socket needs a path"),
        ("unix:/a:b", "percent-encoded path"),
        ("http+unix:///a", "give http://"),
    ],
)
def test_what_is_no_url_is_one_line(url: str, expected: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse(url)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_path() -> None:
    assert path_of("/a?b", "--upload-path") == "/a?b"
    for text in ("a", "", "/a b", "/a\r\n", "/a#b"):
        with pytest.raises(OperatorError, match="--upload-path"):
            path_of(text, "--upload-path")
