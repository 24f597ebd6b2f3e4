"""Connections that move at random moments: to the client and to the app it is as if they never did.

`python -m tests.http.test_moves 1000000` tries so many seeds.
"""

import sys
from collections.abc import Iterator
from random import Random

import pytest

from graceserve.worker.http.policy import Admitted, Refused
from graceserve.worker.http.port import Heads, Limits
from graceserve.worker.http.reader import END, Reader
from tests.http.corpus import Request, as_request, parsers

SEEDS = 2000
HEADS = parsers()
MOVES_MAX = 5

# --- scripts


def chunked(random: Random, body: bytes) -> bytes:
    """In chunks of any size, with extensions and trailers."""
    made = b""
    while body:
        size = min(len(body), random.choice((1, 2, 15, 16, 17, random.randint(1, 300))))
        made += random.choice((b"%x", b"%X", b"00%x")) % size + random.choice((b"", b"", b";x", b';a="b;c"', b" ; y=1"))
        made += b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    trailers = b"".join(random.choices((b"", b"X-T: 1\r\n", b"X-Long: " + b"t" * 40 + b"\r\n"), k=2))
    return made + random.choice((b"0", b"0", b"000;last")) + b"\r\n" + trailers + b"\r\n"


def request(random: Random, number: int) -> bytes:
    """With a body that looks like the framing around it, now and then."""
    words = (b"\r\n", b"0\r\n\r\n", b"5\r\n", b"GET / HTTP/1.1\r\n\r\n", b"abcdef0123", b"\n", b"\r")
    body = b"".join(random.choices(words, k=random.randint(0, 12)))
    pad = b"X-Pad: %b\r\n" % (b"p" * random.randint(0, 60)) if random.random() < 0.5 else b""
    expect = b"Expect: 100-continue\r\n" if random.random() < 0.2 else b""
    line = b" /r%d?%d HTTP/1.1\r\nHost: t\r\n" % (number, random.randint(0, 3)) + pad
    match random.randrange(5):
        case 0 | 1:
            return random.choice((b"GET", b"HEAD", b"DELETE")) + line + b"\r\n"
        case 2:
            return b"POST" + line + expect + b"Content-Length: %d\r\n\r\n" % len(body) + body
        case _:
            return b"PUT" + line + expect + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(random, body)


def script(random: Random) -> bytes:
    """Some requests in a row, the last one perhaps cut off or bad."""
    raw = b"".join(
        random.choice((b"", b"", b"\r\n")) + request(random, number) for number in range(random.randint(1, 6))
    )
    match random.randrange(6):
        case 0:
            return raw[: random.randint(1, len(raw))]
        case 1:
            at = random.randint(0, len(raw))
            return raw[:at] + random.choice((b"\n", b"\0", b"x", b"\r\n", b"g")) + raw[at:]
        case _:
            return raw


# --- a reader, or many one after the other


class Owner:
    """Reads as a connection does. `request` and `body` are what it would serve next."""

    def __init__(self, heads: Heads, raw: bytes = b"") -> None:
        self.reader = Reader(heads, Limits())
        self.request: Admitted | None = None
        self.body = b""
        self.complete = False  # and not served yet
        if raw:
            self.reader.receive(raw)

    def steps(self) -> Iterator[Request | int]:
        """What it serves or refuses; pauses also where nothing has been served, as None would tell."""
        while (event := self.reader.next_event()) is not None:
            if isinstance(event, Refused):
                yield event.status
                return
            if isinstance(event, Admitted):
                self.request, self.body = event, b""
                self.complete = self.reader.bodyless
            elif event is END:
                self.complete = True
            else:
                assert isinstance(event, bytes)
                self.body += event
            if self.complete:
                return

    def serve(self) -> Request:
        assert self.request is not None
        served = as_request(self.request, self.body)
        self.request, self.body, self.complete = None, b"", False
        return served

    def unserved(self) -> bytes:
        return self.reader.unserved(self.request, self.body)


def still(heads: Heads, raw: bytes) -> list[Request | int]:
    """All of it, to one reader."""
    owner = Owner(heads, raw)
    seen: list[Request | int] = []
    while True:
        seen += owner.steps()
        if not owner.complete:
            return seen
        seen.append(owner.serve())


def moving(heads: Heads, raw: bytes, random: Random) -> list[Request | int]:
    """In pieces; it moves between any two of them, and also when a request is complete but not served."""
    owner = Owner(heads)
    seen: list[Request | int] = []
    moves = random.randint(1, MOVES_MAX)
    while raw or owner.complete:
        if not owner.complete:
            size = random.choice((1, 2, random.randint(1, 60), random.randint(1, len(raw))))
            owner.reader.receive(raw[:size])
            raw = raw[size:]
        while True:
            if moves and random.random() < 0.3:  # also what came, and was not looked at, moves
                moves -= 1
                owner = Owner(heads, owner.unserved())
            seen += owner.steps()
            if seen and isinstance(seen[-1], int):
                return seen
            if not owner.complete:
                break
            if moves and random.random() < 0.3:
                moves -= 1
                owner = Owner(heads, owner.unserved())
                continue
            seen.append(owner.serve())
    return seen


def check(parser: str, seed: int) -> None:
    """Raises `AssertionError` with the seed."""
    heads, raw = HEADS[parser], script(Random(seed))
    try:
        expected = still(heads, raw)
        found = moving(heads, raw, Random(f"moves of {seed}"))
    except Exception as error:
        raise AssertionError(f"seed {seed}: {raw!r}") from error
    assert found == expected, f"seed {seed}: {raw!r}: {found} instead of {expected}"


@pytest.mark.parametrize("parser", HEADS)
def test_readers_in_a_row_read_what_one_does(parser: str) -> None:
    for seed in range(SEEDS):
        check(parser, seed)


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        for name in HEADS:
            check(name, number)
    print(f"{sys.argv[1]} seeds are good")
