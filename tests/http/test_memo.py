"""What is remembered of heads changes nothing: with fields that differ each time, and to the environ."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from graceserve.worker.environ import Environs, Peer, Route, Site, constants
from graceserve.worker.forwarded import Trust
from graceserve.worker.http.httptools_port import HttptoolsHeads
from graceserve.worker.http.memo import DIFFERING_MAX, NEW_IN_ALL_MAX, NEW_MAX, Memo
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.port import Limits
from graceserve.worker.http.reader import Event, Reader

HEADS = HttptoolsHeads()
TCP, UNIX = Site("127.0.0.1:8000", "127.0.0.1", "8000"), Site("unix:/run/a.sock")
ROUTES = (
    Route(TCP, Peer("127.0.0.1", 1)), Route(TCP, Peer("127.0.0.1", 2)), Route(TCP, Peer("10.9.9.9", 3)),
    Route(TCP, Peer("127.0.0.1")), Route(UNIX, Peer()), Route(TCP, Peer("127.0.0.1", 1), secure=True),
)  # fmt: skip
BELIEVED = (("x-forwarded-for", "x-forwarded-proto"), (), ("x-forwarded-for", "forwarded", "x-forwarded-prefix"))


def proxied(number: int) -> bytes:
    """A head with two fields and a target that are new each time."""
    return (
        b"GET /?%d HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.%d.%d\r\nAccept: */*\r\nCookie: id=%d\r\n\r\n"
        % (number, number >> 8, number & 255, number)
    )


def first(raw: bytes, memo: Memo, limits: Limits = Limits()) -> tuple[Event | None, int]:  # noqa: B008 - frozen
    """The first event, and how many bytes are left."""
    reader = Reader(HEADS, limits, memo)
    reader.receive(raw)
    return reader.next_event(), reader.held_bytes


def trained(new_max: int = NEW_MAX) -> Memo:
    memo = Memo(Limits(), new_max=new_max)
    for number in range(3 * new_max + 10):
        first(proxied(number), memo)
    return memo


def test_what_differs_is_found_out() -> None:
    known = trained().recall(proxied(99_999))
    assert known is not None and known.alike is not None
    assert known.differing == {"HTTP_COOKIE": "id=99999", "HTTP_X_FORWARDED_FOR": "10.0.390.159"}
    assert known.alike.fields == {"HTTP_HOST": "a", "HTTP_ACCEPT": "*/*"} and known.raw == proxied(99_999)


def test_a_request_without_them_has_none() -> None:
    """Not those of the one before it, who is somebody else."""
    memo = trained()
    constant = constants(1, 1, None, None, None)
    environs = Environs(constant, Trust.of("127.0.0.1"), frozenset(BELIEVED[0]))
    environs.welcome(ROUTES[0])
    bare = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
    for raw in (proxied(7), bare, proxied(8), bare):
        known = memo.recall(raw)
        assert known is not None and known.alike is not None
        environ = environs.make(known, None, 0, ROUTES[0])
        if raw is bare:
            assert "HTTP_COOKIE" not in environ and "HTTP_X_FORWARDED_FOR" not in environ
            assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("127.0.0.1", "1")
        else:
            assert known.differing is not None and environ["HTTP_COOKIE"] == known.differing["HTTP_COOKIE"]
            assert environ["REMOTE_ADDR"].startswith("10.0.0.") and "REMOTE_PORT" not in environ


def test_what_follows_a_head_is_no_field_of_it() -> None:
    """Cut out of there, too, it would leave a head that is known."""
    memo = trained()
    bare = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
    assert memo.recall(bare) is not None
    cookie = b"Cookie: x\r\n"
    for behind in (cookie, cookie + b"\r\n", b"Cookie: x", b"\r\n" + cookie, b"X: y\r\n" + cookie + b"\r\n"):
        assert memo.recall(bare + behind) is None
        event, left = first(bare + behind, memo)
        assert isinstance(event, Admitted) and "HTTP_COOKIE" not in event.variables and left == len(behind)


def test_as_many_fields_as_the_limit_says() -> None:
    limits = Limits(fields_max=4)
    memo = Memo(limits, new_max=4)
    for number in range(40):
        assert isinstance(first(proxied(number), memo, limits)[0], Admitted)
        one_more = proxied(number).replace(b"Accept", b"X-One: 1\r\nAccept")
        assert memo.recall(one_more) is None


def test_what_differs_is_found_out_again() -> None:
    """Names that somebody made up do not stay for good."""
    memo = Memo(Limits())
    for name in range(DIFFERING_MAX):
        for number in range(NEW_MAX + 3):
            first(b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: %d\r\n\r\n" % (name, number), memo)
    first(proxied(0), memo)
    known = [memo.recall(proxied(number)) for number in range(1, NEW_IN_ALL_MAX + 4 * NEW_MAX)]
    assert all(known) and known[NEW_MAX * 4].alike is None and known[-1].alike is not None  # type: ignore[union-attr]


NAMES = (b"Cookie", b"Cookie", b"X-A", b"X-A", b"X-Forwarded-For", b"Accept", b"Forwarded", b"X-Forwarded-Proto",
         b"X-Forwarded-Prefix", b"cookie", b"x-a", b"X_A", b"Connection")  # fmt: skip
GOOD = (b"v", b"v", b"10.1.1.1", b"https", b"", b"a, b", b"10.1.1.2, 127.0.0.1", b"/pre", b"for=10.2.2.2;proto=https")
ODD = (b" 1", b"1 ", b"\xe4", b"\t", b"close", b"x\r\n y", b"x\n", b"\x01")
BEHIND = (b"", b"", b"", b"", b"\r\n", b"Cookie: 1\r\n", b"X-A: 1\r\n\r\n", b"GET / HTTP/1.1\r\n")
TARGETS = (b"/", b"/", b"/pre/x?y", b"http://b/", b"/%41")


def some_head(random: Random) -> tuple[bytes, list[tuple[bytes, bytes, bytes]], bytes]:
    """Target, fields, and what follows."""
    fields = []
    for _ in range(random.randrange(5)):
        colon = b": " if random.random() < 0.95 else b":"
        fields.append((random.choice(NAMES), colon, random.choice(GOOD if random.random() < 0.95 else ODD)))
    return random.choice(TARGETS), fields, random.choice(BEHIND)


def written(target: bytes, fields: list[tuple[bytes, bytes, bytes]], behind: bytes) -> bytes:
    lines = b"".join(name + colon + value + b"\r\n" for name, colon, value in fields)
    return b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n" + behind


def variants(random: Random) -> Iterator[bytes]:
    """A few heads, again and again: with values that go on, with some of the fields left out, as they are."""
    heads = [some_head(random) for _ in range(random.randint(1, 4))]
    for number in range(40):
        target, fields, behind = random.choice(heads)
        chosen = [each for each in fields if random.random() < 0.8]
        goes_on = random.random() < 0.5
        suffix = b"%d" % number if goes_on else b""
        yield written(target, [(name, colon, value + suffix) for name, colon, value in chosen], behind)


def seen(event: Event | None, environs: Environs, route: Route) -> Any:
    if not isinstance(event, Admitted):
        return event
    environ = environs.make(event, None, 0, route)
    return environ, event.keep_alive, event.raw, event.body


@pytest.mark.parametrize("seed", range(60))
def test_any_heads_one_after_another(seed: int) -> None:
    """Give the same with a memo and without, on all kinds of routes."""
    random = Random(seed)
    cut = 0
    for _ in range(30):
        limits = Limits(header_map=random.choice(("drop", "drop", "dangerous")), fields_max=random.choice((100, 5, 3)))
        memo, forgetful = Memo(limits, new_max=random.randint(1, 3)), Memo(limits, 0)
        constant, trust = constants(1, 1, None, None, None), Trust.of("127.0.0.1,unix")
        believed, script_name = frozenset(random.choice(BELIEVED)), random.choice(("", "", "/pre"))
        one, other = (Environs(constant, trust, believed, script_name) for _ in range(2))
        for name in set(NAMES):
            first(written(b"/", [(name, b": ", b"known")], b""), memo, limits)
        for raw in variants(random):
            route = random.choice(ROUTES)
            results = []
            for environs, knows in ((one, memo), (other, forgetful)):
                environs.welcome(route)
                reader = Reader(HEADS, limits, knows)
                reader.receive(raw)
                event = reader.next_event()
                cut += isinstance(event, Admitted) and bool(event.differing) and event.alike is not None
                results.append((seen(event, environs, route), reader.held_bytes))
            assert results[0] == results[1], raw
    assert cut > 20
