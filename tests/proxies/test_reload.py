"""A reload behind HAProxy and Apache (nginx: `tests/process/test_nginx.py`): their kept connections are handed over."""

import pytest

from tests.process import web
from tests.process.server import finish
from tests.proxies.fronts import CLIENT, Front, Tells

FRONTS = ("haproxy-tcp-inline", "haproxy_v2-unix-threads", "apache-tcp-inline", "apache-unix-threads")


@pytest.mark.parametrize("front", FRONTS, indirect=True)
def test_requests_during_a_reload(front: Front) -> None:
    """All are answered by the app."""
    assert front.proxy is not None
    browser = web.Connection(front.proxy.address)
    before = browser.ask("/echo").json["pid"]
    generation = int(front.server.serving()["generation"])
    reloading = front.server.begin("reload")
    while reloading.poll() is None:
        for answer in (browser.ask("/echo"), web.get(front.proxy.address, "/echo")):
            assert answer.status == 200, answer
            assert front.kind.tells is not Tells.PROXY or answer.json["environ"]["REMOTE_ADDR"] == "127.0.0.1"
    assert finish(reloading).code == 0, front.server.log[-3000:]
    front.server.wait_whole(generation + 1)
    assert browser.ask("/echo").json["pid"] != before
    browser.close()
    assert front.ask("/echo").json["environ"]["REMOTE_ADDR"] == CLIENT
