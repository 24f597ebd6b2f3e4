"""TLS of its own, for those without a proxy that ends it. That requests work over it is `test_requests`'."""

from tests.proxies.certificates import self_signed, signed
from tests.proxies.curl import curl
from tests.proxies.fronts import Front, Lab, through

# CURLE_SSL_CONNECT_ERROR, or as with TLS 1.3 the client has done its part when it is refused, CURLE_GOT_NOTHING and
# CURLE_RECV_ERROR
REFUSED = (35, 52, 56)


@through(lambda kind: kind.tls and not kind.checks)
def test_the_protocols(front: Front) -> None:
    """curl would take HTTP/2 where it is offered; TLS before 1.2 is not served."""
    answer = front.ask("/echo")
    assert (answer.facts[0]["http_version"], answer.facts[0]["ssl_verify_result"]) == ("1.1", 0)
    assert front.ask("/echo", "--tls-max", "1.2").status == 200
    assert front.ask("/echo", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0").code == 35


@through(lambda kind: kind.tls and not kind.checks)
def test_plain_http_to_a_tls_port(front: Front) -> None:
    """Is no request, and no traceback."""
    before = len(front.server.log)
    answer = curl(*front.args, front.url.replace("https:", "http:") + "/echo")
    assert answer.code in (1, 52, 56) or answer.status == 400, answer
    assert front.ask("/echo").status == 200
    assert "Traceback" not in front.server.log[before:]


def test_client_certificates(lab: Lab) -> None:
    """--ca-certs: only those that the authority has signed."""
    authority = self_signed(lab.root, "authority")
    mine, other = signed(lab.root, "mine", authority), self_signed(lab.root, "other")
    server = lab.start("demanding", "threads", "off", True, "--ca-certs", authority.chain)
    url = f"https://{server.address}/echo"
    trust = ("--cacert", lab.certificate.chain)
    assert curl(*trust, "--cert", mine.chain, "--key", mine.key, url).status == 200
    for args in ((), ("--cert", other.chain, "--key", other.key)):
        answer = curl(*trust, *args, url)
        assert answer.code in REFUSED and not answer.heads, answer
