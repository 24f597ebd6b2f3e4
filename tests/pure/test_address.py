"""Bind addresses: every form, and every mistake with the fix in its one line."""

import pytest

from graceserve.address import Address, Family, parse
from graceserve.errors import OperatorError

GOOD = {
    "127.0.0.1:8000": Address(Family.TCP, "127.0.0.1", 8000),
    "localhost:0": Address(Family.TCP, "localhost", 0),
    "example.org": Address(Family.TCP, "example.org", 8000),
    ":9000": Address(Family.TCP, "0.0.0.0", 9000),
    "tcp://10.0.0.1:80": Address(Family.TCP, "10.0.0.1", 80),
    "[::1]:8000": Address(Family.TCP, "::1", 8000),
    "[::]": Address(Family.TCP, "::", 8000),
    "unix:/run/app.sock": Address(Family.UNIX, path="/run/app.sock"),
    "unix:///run/app.sock": Address(Family.UNIX, path="/run/app.sock"),
    "unix:app.sock": Address(Family.UNIX, path="app.sock"),
    "fd://3": Address(Family.FD, fd=3),
}
BAD = {
    "": "HOST:PORT",
    ":": "HOST:PORT",
    "host:http": "not a port",
    "host:65536": "not a port",
    "host:-1": "not a port",
    "host:8_0": "not a port",
    "host:٣": "not a port",
    "::1:8000": "[::1]:8000",
    "[::1": "[::1]:8000",
    "[::1]8000": "[::1]:8000",
    "unix:": "needs a path",
    "fd://": "fd://3",
    "fd://x": "fd://3",
}


@pytest.mark.parametrize("text", GOOD)
def test_parses(text: str) -> None:
    assert parse(text) == GOOD[text]


@pytest.mark.parametrize("text", GOOD)
def test_name_parses_to_the_same(text: str) -> None:
    assert parse(parse(text).name) == parse(text)


@pytest.mark.parametrize("text", BAD)
def test_refuses_with_the_fix(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"--bind {text}: ")
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value)
