"""What scripted clients say on a connection, and what they must hear: byte for byte, but for the date. Pure; seeded.

A session is one connection: a few bursts of pipelined requests to `apps.scripted`, each burst cut into pieces at random
bytes with pauses between, and an end. What is said does not depend on what is heard, but for `100 Continue`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from random import Random
from urllib.parse import urlencode

from tests.http.apps import scripted_text, text_pieces

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DATE = b"\r\nDate: "
NO_DATE = b"?" * len("Thu, 26 Nov 2026 09:49:58 GMT")  # in its place
BAD = b"\0\r\n\r\n"  # no request line
REFUSED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 16\r\nServer: graceserve" + DATE + NO_DATE
    + b"\r\nConnection: close\r\n\r\n400 Bad Request\n"
)  # fmt: skip
WORDS = (b"\r\n", b"0\r\n\r\n", b"5\r\n", b"GET / HTTP/1.1\r\n\r\n", b"abcdef0123", b"\n", b"\r")  # looks like framing


class Ending(Enum):
    """Of a session."""

    CLOSE = "the client closes when it has heard everything"
    HALF = "the client sends no more, from some byte on, and reads on"
    VANISH = "the client closes at some byte, whatever it has heard"
    LAST = "the last request says that it is"
    BAD = "what is behind the last request is none"


ENDINGS = (*[Ending.CLOSE] * 3, *[Ending.HALF] * 2, *[Ending.VANISH] * 3, *[Ending.LAST] * 2, Ending.BAD)


@dataclass(frozen=True, slots=True)
class Taste:
    """What most requests of a run are like; shares are from 0 to 1."""

    name: str
    slow_share: float  # of requests whose app sleeps
    slow_s: tuple[float, float]
    body_share: float
    large_share: float  # of bodies and responses, that are larger than buffers and spools
    depth_max: int  # pipelined
    pauses_s: tuple[float, ...]  # between the pieces of a burst, and the bursts


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and its answer. `waits`: for `100 Continue` before the body; `may_continue`: it may come all the
    same."""

    token: str
    head: bytes
    body: bytes
    answer: bytes
    waits: bool
    may_continue: bool

    @property
    def size(self) -> int:
        """Bytes that the client sends."""
        return len(self.head) + len(self.body)


@dataclass(frozen=True, slots=True)
class Step:
    """Of a client that sends: these bytes, or, if there are none, wait until it has heard that ask's `100 Continue`;
    then a pause."""

    data: bytes
    pause_s: float = 0.0
    awaits: str = ""


@dataclass(frozen=True, slots=True)
class Burst:
    """What is sent in a row. `asks` are those that are sent in full, `partial` is the one behind them."""

    steps: list[Step]
    asks: list[Ask]
    partial: Ask | None
    pause_s: float  # before it


@dataclass(frozen=True, slots=True)
class Session:
    """One connection."""

    bursts: list[Burst]
    ending: Ending
    resets: bool  # if it vanishes
    reads_slowly: bool

    def __str__(self) -> str:
        lines = [f"{self.ending.name}{' by a reset' * self.resets}{', reads slowly' * self.reads_slowly}"]
        for burst in self.bursts:
            lines.append(f"  after {burst.pause_s * 1000:.0f} ms:")
            for step in burst.steps:
                shown = f"waits for {step.awaits}" if step.awaits else _shown(step.data)
                lines.append(f"    {shown}{f', {step.pause_s * 1000:.0f} ms' * bool(step.pause_s)}")
        return "\n".join(lines)


def _shown(data: bytes) -> str:
    return repr(data) if len(data) < 700 else f"{data[:400]!r}...{data[-40:]!r} ({len(data)} bytes)"


def masked(heard: bytes, expected: bytes) -> bytes:
    """`heard`, without the dates where dates are expected."""
    at = expected.find(NO_DATE)
    while at >= 0 and at < len(heard):
        heard = heard[:at] + NO_DATE[: len(heard) - at] + heard[at + len(NO_DATE) :]
        at = expected.find(NO_DATE, at + len(NO_DATE))
    return heard


# --- sessions


def session(random: Random, name: str, record: str, taste: Taste) -> Session:
    """A random one. `name` begins its tokens, `record` is where the app notes them."""
    ending = random.choice(ENDINGS)
    count = random.choice((1, 1, 2, 3, 6))
    bursts = []
    for number in range(count):
        depth = random.choice((1, 1, random.randint(1, taste.depth_max)))
        last = ending if number == count - 1 else None
        asks = [
            ask(random, f"{name}.{number}.{at}", record, taste, closes=last is Ending.LAST and at == depth - 1)
            for at in range(depth)
        ]
        bursts.append(_burst(random, asks, taste, last))
    resets = ending is Ending.VANISH and random.random() < 0.5
    return Session(bursts, ending, resets, random.random() < 0.15)


def _burst(random: Random, asks: list[Ask], taste: Taste, ending: Ending | None) -> Burst:
    whole = sum(one.size for one in asks)
    upto = whole
    if (ending is Ending.HALF and random.random() < 0.4) or ending is Ending.VANISH:
        upto = random.choice((random.randint(1, whole), whole - random.randint(0, asks[-1].size), whole))
    steps = list(_steps(random, asks, upto, taste))
    if ending is Ending.BAD:
        steps.append(Step(BAD))
    ends = list(accumulate(one.size for one in asks))
    sent = [one for one, end in zip(asks, ends, strict=True) if end <= upto]
    partial = asks[len(sent)] if len(sent) < len(asks) else None
    return Burst(steps, sent, partial, random.choice(taste.pauses_s))


def _steps(random: Random, asks: list[Ask], upto: int, taste: Taste) -> Iterator[Step]:
    """As far as byte `upto`."""
    stretch = b""
    for one in asks:
        data = one.head[:upto]
        upto -= len(data)
        stretch += data
        if one.waits and upto:
            yield from _pieces(random, stretch, taste)
            yield Step(b"", awaits=one.token)
            stretch = b""
        data = one.body[:upto]
        upto -= len(data)
        stretch += data
    yield from _pieces(random, stretch, taste)


def _pieces(random: Random, data: bytes, taste: Taste) -> Iterator[Step]:
    """Cut anywhere, a bit more often near the ends of its lines."""
    if len(data) < 2:
        cuts: set[int] = set()
    elif len(data) < 400 and random.random() < 0.05:
        cuts = set(range(1, len(data)))
    else:
        cuts = {random.randrange(1, len(data)) for _ in range(random.choice((0, 0, 1, 2, 5)))}
    ends = sorted(cuts | {len(data)} if data else cuts)
    begins = [0, *ends]
    many = len(ends) > 10
    for begin, end in zip(begins, ends, strict=False):
        yield Step(data[begin:end], 0.0 if many and random.random() < 0.9 else random.choice(taste.pauses_s))


# --- requests


def ask(random: Random, token: str, record: str, taste: Taste, *, closes: bool) -> Ask:
    """A random one."""
    old = random.random() < 0.15
    has_body = random.random() < taste.body_share
    method = random.choice(("POST", "POST", "PUT", "DELETE") if has_body else ("GET", "GET", "GET", "HEAD"))
    slow = random.random() < taste.slow_share
    answers = ["whole", "whole", "sized", "filed", "nothing", "streamed-slowly" if slow else "sized"]
    answers += ["streamed", "written"] if not old or closes or method == "HEAD" else []
    answers += ["hinted"] if not old else []
    answer = random.choice(answers)
    size = _size(random, taste.large_share)
    sleep_s = round(random.uniform(*taste.slow_s), 4) if slow else 0
    read = random.choice(("all", "bits", "lines"))
    query = urlencode(
        {"token": token, "answer": answer, "size": size, "read": read, "sleep": sleep_s, "record": record}
    )
    pad = "p" * random.choice((0, 0, 1, 40, 300))
    body = _body(random, taste.large_share) if has_body else b""
    fields, framed, expects = _framed(random, body, old) if has_body else ("", b"", False)
    if closes and not (old and random.random() < 0.5):
        fields += "Connection: close\r\n"
    elif old and not closes:
        fields += "Connection: keep-alive\r\n"
    line = f"{method} /scripted?{query} HTTP/1.{0 if old else 1}\r\nHost: t\r\n"
    head = (line + (f"X-Pad: {pad}\r\n" if pad else "") + fields + "\r\n").encode()
    text = scripted_text(token, "\0".join((method, query, pad)).encode(), body, size)
    return Ask(
        token=token,
        head=random.choice((b"",) * 9 + (b"\r\n",)) + head,
        body=framed,
        answer=Answer(answer, token, text, method == "HEAD", old, closes).raw(),
        waits=expects and bool(framed) and not old and random.random() < 0.5,
        may_continue=expects and bool(framed) and not old,
    )


def _size(random: Random, large_share: float) -> int:
    if random.random() < large_share:
        return random.choice((65_000, 66_000, 300_000, 900_000))
    return random.choice((0, 0, 0, 500, 5000))


def _body(random: Random, large_share: float) -> bytes:
    if random.random() < large_share:
        return random.randbytes(random.choice((65_536, 70_000, 500_000, 524_288, 524_289, 700_000)))
    if random.random() < 0.5:
        return b"".join(random.choices(WORDS, k=random.randint(0, 12)))
    return random.randbytes(random.choice((0, 1, 10, 300, 3000, 20_000)))


def _framed(random: Random, body: bytes, old: bool) -> tuple[str, bytes, bool]:
    """Header lines, the body in its framing, and whether it says `Expect`."""
    expects = random.random() < 0.25
    fields = "Expect: 100-continue\r\n" if expects else ""
    if old or random.random() < 0.5:
        return f"{fields}Content-Length: {len(body)}\r\n", body, expects
    return f"{fields}Transfer-Encoding: chunked\r\n", _chunked(random, body), expects


def _chunked(random: Random, body: bytes) -> bytes:
    """In chunks of any size, with extensions and trailers."""
    made, at = [], 0
    small = len(body) < 4000
    while at < len(body):
        size = min(len(body) - at, random.choice((1, 15, 16, 300) if small else (4096, 65_536, 100_000)))
        made.append(random.choice((b"%x", b"%X", b"00%x")) % size + random.choice((b"", b"", b";x", b';a="b;c"')))
        made.append(b"\r\n" + body[at : at + size] + b"\r\n")
        at += size
    trailers = b"".join(random.choices((b"", b"X-T: 1\r\n", b"X-Long: " + b"t" * 40 + b"\r\n"), k=2))
    return b"".join(made) + random.choice((b"0", b"0", b"000;last")) + b"\r\n" + trailers + b"\r\n"


# --- answers


@dataclass(frozen=True, slots=True)
class Answer:
    """What `apps.scripted` makes of a request, and the server of that."""

    kind: str
    token: str
    text: bytes
    to_head: bool
    to_old: bool
    closes: bool

    def raw(self) -> bytes:
        """All of it."""
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n" if self.kind == "hinted" else b""
        status = b"204 No Content" if self.kind == "nothing" else b"200 OK"
        told = f"Content-Type: text/plain\r\nX-Token: {self.token}\r\n".encode()
        if self.kind in ("sized", "streamed-slowly"):
            told += b"Content-Length: %d\r\n" % len(self.text)
        head = b"HTTP/1.1 %b\r\n%bServer: graceserve" % (status, told) + DATE + NO_DATE + b"\r\n"
        framing, body = self._framed()
        if self.to_head:
            framing = body = b""
        return hints + head + framing + self._connection() + b"\r\n" + body

    def _connection(self) -> bytes:
        if self.closes:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self.to_old else b""

    def _framed(self) -> tuple[bytes, bytes]:
        """The header line that the server adds, and the body."""
        text = self.text
        match self.kind:
            case "nothing":
                return b"", b""
            case "sized" | "streamed-slowly":
                return b"", text
            case "streamed" | "written" if self.to_old:
                return b"", text
            case "streamed" | "written":
                chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in text_pieces(text))
                return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n\r\n"
            case _:
                return b"Content-Length: %d\r\n" % len(text), text
