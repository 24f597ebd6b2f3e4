"""Clients that play sessions: each says what its session wants, and knows what it must hear. Shell; runs in pytest."""

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TypeAlias

from tests.http.sessions import CONTINUE, REFUSED, Ask, Burst, Ending, Session, Taste, masked, session

ANSWER_S = 20.0  # without a byte that is waited for
RECEIVE_BYTES = 262_144
SLOW_RECEIVE_BYTES = 4096  # that the kernel holds for a slow reader, so that the server has to
SLOW_S = 0.3  # at most, that it does not look at the answers to a burst
SLOW_READS = 20  # then it makes haste
Address: TypeAlias = tuple[str, int] | str  # a string is a path


class Wrong(Exception):
    """What a client heard is not what it should have."""


class Line:
    """A session on its connection."""

    def __init__(self, sock: socket.socket, session: Session, random: Random) -> None:
        self.answered: list[str] = []
        self._sock = sock
        self._session = session
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._heard = b""
        self._continued: dict[str, asyncio.Event] = {}
        self._slow_reads = SLOW_READS if session.reads_slowly else 0

    async def play(self) -> None:
        """All of it. Raises `Wrong`."""
        ending = self._session.ending
        *bursts, last = self._session.bursts
        for burst in bursts:
            await self._play(burst)
        await self._play(last, half=ending is Ending.HALF, vanish=ending is Ending.VANISH)
        match ending:
            case Ending.VANISH if self._session.resets and self._sock.family != socket.AF_UNIX:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case Ending.CLOSE:
                self._quiet()
            case Ending.BAD:
                await self._exactly(REFUSED, "the refusal")
                await self._end()
            case Ending.HALF | Ending.LAST:
                if last.partial is not None and last.partial.may_continue:
                    await self._take(CONTINUE)
                await self._end()

    async def _play(self, burst: Burst, *, half: bool = False, vanish: bool = False) -> None:
        """Say and hear a burst. `half`: and then say no more; `vanish`: and then hear no more."""
        await asyncio.sleep(burst.pause_s)
        self._continued = {step.awaits: asyncio.Event() for step in burst.steps if step.awaits}
        saying = asyncio.create_task(self._say(burst, half=half))
        hearing = asyncio.create_task(self._hear(burst))
        try:
            await asyncio.wait((saying, hearing), return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                hearing.result()
            await saying
            if not vanish or hearing.done():
                await hearing
        except OSError as error:
            raise Wrong(f"{error!r}") from error
        finally:
            for task in (saying, hearing):
                task.cancel()
            await asyncio.gather(saying, hearing, return_exceptions=True)

    async def _say(self, burst: Burst, *, half: bool) -> None:
        for step in burst.steps:
            if step.awaits:
                await self._continued[step.awaits].wait()
            else:
                await self._loop.sock_sendall(self._sock, step.data)
            if step.pause_s:
                await asyncio.sleep(step.pause_s)
        if half:
            self._sock.shutdown(socket.SHUT_WR)

    async def _hear(self, burst: Burst) -> None:
        if self._session.reads_slowly:
            await asyncio.sleep(self._random.uniform(0, SLOW_S))
        for ask in burst.asks:
            await self._hear_continue(ask)
            await self._exactly(ask.answer, ask.token)
            self.answered.append(ask.token)
        if burst.partial is not None and burst.partial.token in self._continued:
            await self._hear_continue(burst.partial)

    async def _hear_continue(self, ask: Ask) -> None:
        waits = self._continued.get(ask.token)
        if ask.may_continue and not await self._take(CONTINUE) and waits is not None:
            raise Wrong(f"{ask.token}: {self._heard[:200]!r} instead of 100 Continue")
        if waits is not None:
            waits.set()

    async def _take(self, expected: bytes) -> bool:
        """Whether this is what comes next; then it has been heard."""
        while len(self._heard) < len(expected) and expected.startswith(self._heard):
            if not await self._more():
                return False
        if not self._heard.startswith(expected):
            return False
        self._heard = self._heard[len(expected) :]
        return True

    async def _exactly(self, expected: bytes, what: str) -> None:
        while True:
            heard = self._heard[: len(expected)]
            if not expected.startswith(masked(heard, expected)):
                raise Wrong(f"{what}: {_differing(masked(heard, expected), expected)}")
            if len(heard) == len(expected):
                self._heard = self._heard[len(expected) :]
                return
            if not await self._more():
                raise Wrong(f"{what}: closed behind {len(heard)} of {len(expected)} bytes: {heard[-200:]!r}")

    async def _end(self) -> None:
        """Nothing comes any more, but the end."""
        if self._heard or await self._more():
            raise Wrong(f"more than expected: {self._heard[:500]!r}")

    def _quiet(self) -> None:
        """Nothing comes by itself."""
        try:
            data = self._sock.recv(1000)
        except BlockingIOError:
            data = None
        if self._heard or data is not None:
            raise Wrong(f"between requests came {self._heard!r} {data!r}")

    async def _more(self) -> bool:
        """Whether something came; False at the end."""
        size = RECEIVE_BYTES
        if self._slow_reads:
            self._slow_reads -= 1
            await asyncio.sleep(self._random.uniform(0, 0.02))
            size = self._random.choice((1, 100, 10_000, size))
        try:
            async with asyncio.timeout(ANSWER_S):
                data = await self._loop.sock_recv(self._sock, size)
        except TimeoutError:
            raise Wrong(f"nothing for {ANSWER_S:g} s; before it {self._heard[-200:]!r}") from None
        except ConnectionError as error:
            raise Wrong(f"{error!r}; before it {self._heard[-200:]!r}") from None
        self._heard += data
        return bool(data)


def _differing(heard: bytes, expected: bytes) -> str:
    at = next((at for at, (one, other) in enumerate(zip(heard, expected, strict=False)) if one != other), len(expected))
    begin = max(0, at - 100)
    return f"at byte {at}: {heard[begin : at + 200]!r} instead of {expected[begin : at + 200]!r}"


class Clients:
    """So many, each with one session behind the other, in a thread of their own. `with`: until they are told to stop.

    Leaving it raises `AssertionError` if one of them heard something wrong.
    """

    def __init__(self, address: Address, record: str, seed: int, count: int, taste: Taste) -> None:
        self.answered: list[str] = []
        self.unheard: list[str] = []  # sent in full by clients that vanished
        self.partial: list[str] = []  # not sent in full
        self.failure = ""  # the first one
        self.endings: Counter[Ending] = Counter()
        self.moves = 0  # `check_record` counts them
        self.over = threading.Event()
        self._address = address
        self._family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._record = record
        self._seed = seed
        self._count = count
        self._taste = taste
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Clients":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.over.set()
        self._thread.join()
        if kind is None:
            self.check()

    def __str__(self) -> str:
        endings = ", ".join(f"{count} {ending.name}" for ending, count in sorted(self.endings.items(), key=repr))
        return f"{len(self.answered)} answered, {len(self.unheard)} unheard, {self.moves} moves; {endings}"

    def check(self) -> None:
        """Raises `AssertionError`."""
        assert not self.failure, self.failure

    def _work(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:
            self._fail(f"{time.time():.3f} {error!r}")

    async def _run(self) -> None:
        await asyncio.gather(*map(self._play_all, range(self._count)))

    async def _play_all(self, number: int) -> None:
        random = Random(f"{self._seed} {number}")
        at = 0
        while not self.over.is_set():
            name = f"{number}-{at}"
            await self._play(session(random, name, self._record, self._taste), name)
            at += 1

    async def _play(self, one: Session, name: str) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(self._family) as sock:
            sock.setblocking(False)
            if one.reads_slowly:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BYTES)
            await loop.sock_connect(sock, self._address)
            if self._family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(sock, one, Random(name))
            try:
                await line.play()
            except Wrong as error:
                self._fail(f"{time.time():.3f} session {name} from {sock.getsockname()}: {error}\n{one}")
            self._count_up(one, line.answered)

    def _fail(self, what: str) -> None:
        self.failure = self.failure or what
        self.over.set()

    def _count_up(self, one: Session, answered: list[str]) -> None:
        self.endings[one.ending] += 1
        self.answered += answered
        sent = {ask.token for burst in one.bursts for ask in burst.asks}
        self.unheard += sent.difference(answered)
        self.partial += [burst.partial.token for burst in one.bursts if burst.partial is not None]

    def check_record(self) -> None:
        """What the app ran, once nothing runs any more. Raises `AssertionError`."""
        lines = [line.split() for line in Path(self._record).read_text(encoding="ascii").splitlines()]
        ran = Counter(token for token, _ in lines)
        wrong = {token: ran[token] for token in self.answered if ran[token] != 1}
        wrong |= {token: ran[token] for token in self.unheard if ran[token] > 1}
        wrong |= {token: ran[token] for token in self.partial if ran[token]}
        unknown = set(ran).difference(self.answered, self.unheard, self.partial)
        assert not wrong and not unknown, f"ran so often: {wrong}; never sent: {unknown}"
        self.moves = _moves(lines)


def _moves(lines: list[list[str]]) -> int:
    """How often the next request of a session ran in another process."""
    latest: dict[str, str] = {}
    count = 0
    for token, pid in lines:
        name = token.partition(".")[0]
        count += latest.get(name, pid) != pid
        latest[name] = pid
    return count
