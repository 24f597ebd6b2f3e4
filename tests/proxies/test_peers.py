"""Who the client is and how it asked, as the app sees it: told by a proxy, and by nobody else."""

import pytest

from tests.proxies.curl import Answer, curl
from tests.proxies.fronts import CLIENT, Front, Lab, Tells, through

FORGED = ("-H", "X-Forwarded-For: 203.0.113.7", "-H", "X-Forwarded-Proto: https")


def seen(answer: Answer) -> tuple[str, str | None, str]:
    """Address, port and scheme."""
    assert (answer.code, answer.status) == (0, 200), answer
    environ = answer.json["environ"]
    return environ["REMOTE_ADDR"], environ.get("REMOTE_PORT"), answer.json["scheme"]


def port_of(answer: Answer) -> str:
    """curl's own."""
    return str(answer.facts[0]["local_port"])


@through(lambda kind: kind.tells is Tells.HEADERS)
def test_a_proxy_tells_by_headers(front: Front) -> None:
    """The client's address; its port is not told. What the client says of itself counts for nothing."""
    for args in ((), FORGED):
        assert seen(front.ask("/echo", *args)) == (CLIENT, None, "http")


@through(lambda kind: kind.tells is Tells.PROXY)
def test_a_proxy_tells_by_the_proxy_protocol(front: Front) -> None:
    """Its port, too."""
    for args in ((), FORGED):
        answer = front.ask("/echo", *args)
        assert seen(answer) == (CLIENT, port_of(answer), "http")


@through(lambda kind: kind.tells is Tells.HEADERS)
def test_a_proxy_that_ends_tls(front: Front) -> None:
    """The app makes links for `https`."""
    answer = curl(*front.args, f"{front.tls_url}/echo")
    assert seen(answer) == (CLIENT, None, "https")
    moved = curl(*front.args, "-H", "Host: shop.example", f"{front.tls_url}/moved")
    assert moved.headers["location"] == "https://shop.example/echo?redirected"


@pytest.mark.parametrize("mode", ["inline", "threads"])
def test_a_stranger_is_not_believed(lab: Lab, mode: str) -> None:
    """Over TCP from an address that is no proxy's."""
    front = lab.front(f"curl-tcp-{mode}")
    for args in ((), FORGED):
        answer = front.ask("/echo", *args)
        assert seen(answer) == (CLIENT, port_of(answer), "http")


@pytest.mark.parametrize("mode", ["inline", "threads"])
def test_a_unix_socket_is_believed(lab: Lab, mode: str) -> None:
    """Whoever may connect to a Unix socket is a proxy, by default."""
    front = lab.front(f"curl-unix-{mode}")
    assert seen(front.ask("/echo")) == ("", None, "http")
    assert seen(front.ask("/echo", *FORGED)) == ("203.0.113.7", None, "https")


@through(lambda kind: kind.tls and kind.tells is Tells.ITSELF)
def test_tls_of_its_own(front: Front) -> None:
    """Nobody has to tell the scheme."""
    answer = front.ask("/echo")
    assert seen(answer) == (("", None, "https") if front.unix else (CLIENT, port_of(answer), "https"))
