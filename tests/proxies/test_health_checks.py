"""HAProxy's health checks, as the example has them."""

from tests.process.waiting import eventually
from tests.proxies.fronts import Front, through
from tests.proxies.proxies import Haproxy

CHECK_S = 2  # HAProxy's `inter`


@through(lambda kind: kind.checks)
def test_health_checks(front: Front) -> None:
    """Up by an answer of the app; with the PROXY protocol the check speaks for HAProxy itself (LOCAL, or UNKNOWN)."""
    assert isinstance(front.proxy, Haproxy)
    proxy = front.proxy

    def healthy() -> bool:
        health = proxy.health()
        assert health["check_status"] == "L7OK", health
        return (health["status"], health["check_code"]) == ("UP", "200")

    eventually(healthy, 5 * CHECK_S)
    [check] = front.ask("/checked").json.values()
    assert check["environ"]["REMOTE_ADDR"] == ("" if front.unix else "127.0.0.1")
    assert check["environ"]["HTTP_HOST"] == "localhost"
