"""Hostile bytes by the million: `python -m tests.http.fuzz --inputs 10_000_000 --jobs 2 --seed 1`.

Requests of the corpus, mutated, go through a reader with each parser, whole and in pieces. What must hold of each:

  - never an exception, never a hang, never more events than bytes
  - it is admitted, or refused with a status, or waited for; a reader never holds more than a head and the last piece
  - all parsers give the same, however it is cut, and whether or not the memo knows it

One that breaks a rule ends the run: it is made as short as it can be, and printed as a file of the corpus. The same
seed gives the same inputs. `--grow FOLDER --seconds N` has atheris (PyPI; libFuzzer) look for inputs that reach new
code, and keeps them in FOLDER; `--seeds FOLDER` takes them as well.
"""

import argparse
import faulthandler
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from random import Random

from graceserve.worker.http.port import Limits
from tests.http.corpus import Outcome, agreed, cases, escaped, parsers

BATCH = 5000  # inputs
HANGS_S = 120.0  # a batch takes two seconds; a worker that does not come to its end says where it is, and dies
SHORTEN_S = 30.0
INPUT_BYTES_MAX = 3000
LONG_EVERY = 200  # one input of so many may be long

TIGHT = Limits(line_bytes_max=60, head_bytes_max=300, fields_max=5, field_bytes_max=50, body_bytes_max=20)
TIGHTER = Limits(line_bytes_max=20, head_bytes_max=40, fields_max=1, field_bytes_max=12, body_bytes_max=3)
LIMITS = (Limits(), Limits(), TIGHT, TIGHTER, Limits(header_map="refuse"), Limits(header_map="dangerous"))

TOKENS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\r\r\n", b"\n\r\n", b"\r\n ", b"\r\n\t", b"\0", b" ", b"  ", b"\t",
    b":", b": ", b" :", b",", b";", b"=", b'"', b"\\", b"/", b"?", b"#", b"@", b"*", b"%", b"[", b"]", b"_", b"-", b"+",
    b"\x01", b"\x0b", b"\x0c", b"\x1b", b"\x1f", b"\x7f", b"\x80", b"\x85", b"\xa0", b"\xc4", b"\xff",
    b"0", b"1", b"3", b"9", b"a", b"f", b"0x", b"00000000", b"fffffffffffffff", b"99999999999999999999",
    b"0\r\n\r\n", b"3\r\nabc\r\n", b"1;x=y\r\n", b"chunked", b"gzip", b"close", b"keep-alive", b"100-continue",
    b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"GET", b"POST", b"CONNECT", b"OPTIONS", b"PRI", b"http://b", b"https://",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
)  # fmt: skip
LINES = (
    b"Host: a", b"Host: b", b"host:", b"Content-Length: 0", b"Content-Length: 3", b"content-length: 3",
    b"Content-Length: 18446744073709551619", b"Content-Length: 3, 3", b"Transfer-Encoding: chunked",
    b"transfer-encoding: CHUNKED", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:", b"Connection: close",
    b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Connection: keep-alive", b"Expect: 100-continue",
    b"Expect: x", b"Content-Type: a", b"Cookie: a=b", b"X_Y: z", b"Content_Length: 3", b"Transfer_Encoding: chunked",
    b"Proxy: x", b"X: y", b" folded", b"X : y", b": y", b"X", b"Trailer: X", b"TE: trailers", b"HTTP2-Settings: AA",
)  # fmt: skip

# --- mutations

Mutation = Callable[[Random, bytes], bytes]


def _place(random: Random, raw: bytes) -> int:
    """Anywhere; often behind the head, where it is shorter than the head."""
    behind = raw.find(b"\r\n\r\n") + 4
    return random.randrange(behind if behind > 3 and random.random() < 0.4 else 0, len(raw) + 1)


def _span(random: Random, raw: bytes, most: int = 40) -> tuple[int, int]:
    start = _place(random, raw)
    return start, min(len(raw), start + random.randint(1, most))


def flip(random: Random, raw: bytes) -> bytes:
    at = _place(random, raw)
    return raw[:at] + bytes(byte ^ (1 << random.randrange(8)) for byte in raw[at : at + 1]) + raw[at + 1 :]


def overwrite(random: Random, raw: bytes) -> bytes:
    at = _place(random, raw)
    return raw[:at] + random.randbytes(1) + raw[at + 1 :]


def insert(random: Random, raw: bytes) -> bytes:
    at = _place(random, raw)
    return raw[:at] + random.choice(TOKENS) + raw[at:]


def swap_in(random: Random, raw: bytes) -> bytes:
    start, end = _span(random, raw, 4)
    return raw[:start] + random.choice(TOKENS) + raw[end:]


def delete(random: Random, raw: bytes) -> bytes:
    start, end = _span(random, raw, random.choice((1, 1, 2, 40)))
    return raw[:start] + raw[end:]


def repeat(random: Random, raw: bytes) -> bytes:
    start, end = _span(random, raw)
    return raw[:end] + raw[start:end] * random.choice((1, 1, 2, 10)) + raw[end:]


def truncate(random: Random, raw: bytes) -> bytes:
    return raw[: _place(random, raw)]


def change_case(random: Random, raw: bytes) -> bytes:
    start, end = _span(random, raw)
    return raw[:start] + raw[start:end].swapcase() + raw[end:]


def add_line(random: Random, raw: bytes) -> bytes:
    lines = raw.split(b"\r\n")
    lines.insert(random.randint(1, min(len(lines), 8)), random.choice(LINES))
    return b"\r\n".join(lines)


def repeat_line(random: Random, raw: bytes) -> bytes:
    lines = raw.split(b"\r\n")
    lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
    return b"\r\n".join(lines)


def swap_lines(random: Random, raw: bytes) -> bytes:
    lines = raw.split(b"\r\n")
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def splice(random: Random, raw: bytes) -> bytes:
    other = random.choice(seeds())
    return raw[: _place(random, raw)] + other[_place(random, other) :]


def follow(random: Random, raw: bytes) -> bytes:
    return random.choice(good_seeds()) + raw


MUTATIONS: tuple[Mutation, ...] = (
    flip, overwrite, insert, insert, swap_in, delete, repeat, truncate, change_case, add_line, add_line, repeat_line,
    swap_lines, splice, follow, follow,
)  # fmt: skip


@cache
def seeds(folder: str = "") -> tuple[bytes, ...]:
    """What is mutated: the corpus, but for what is long by repetition, and what `--grow` has found."""
    grown = [path.read_bytes() for path in sorted(Path(folder).iterdir())] if folder else []
    return tuple(raw for raw in [*(case.raw for case in cases()), *grown] if len(raw) <= INPUT_BYTES_MAX)


@cache
def good_seeds() -> tuple[bytes, ...]:
    return tuple(case.raw for case in cases() if case.name.startswith("valid/") and len(case.raw) <= 500)


@cache
def long_seeds() -> tuple[bytes, ...]:
    return tuple(case.raw for case in cases() if len(case.raw) > INPUT_BYTES_MAX)


# --- a run


@dataclass(frozen=True, slots=True)
class Input:
    raw: bytes
    cuts: tuple[int, ...]
    limits: Limits


class Failed(Exception):
    """A rule is broken. The argument is the story."""


@dataclass(slots=True)
class Tally:
    inputs: int = 0
    read_bytes: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: bytes = b""

    def add(self, other: "Tally") -> None:
        self.inputs += other.inputs
        self.read_bytes += other.read_bytes
        self.seen += other.seen
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest


def inputs(seed: int, batch: int, size: int, folder: str = "") -> Iterator[Input]:
    random = Random(f"{seed} {batch}")
    pools = (good_seeds(), seeds(folder))
    for number in range(size):
        is_long = number % LONG_EVERY == 0
        raw = random.choice(long_seeds() if is_long else pools[number % 2])
        for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3, 5))):
            raw = random.choice(MUTATIONS)(random, raw)
        raw = raw if is_long else raw[:INPUT_BYTES_MAX]
        cuts = tuple(random.randrange(len(raw) + 1) for _ in range(random.choice((1, 1, 2, 5, 20))))
        yield Input(raw, cuts, random.choice(LIMITS))


def run_batch(seed: int, batch: int, size: int, folder: str = "") -> Tally:
    """Raises `Failed`."""
    faulthandler.dump_traceback_later(HANGS_S, exit=True)
    tally, heads = Tally(), parsers()
    for one in inputs(seed, batch, size, folder):
        began = time.perf_counter()
        try:
            outcome = agreed(heads["h11"], heads["httptools"], one.limits, one.raw, one.cuts)
        except Exception as error:
            faulthandler.cancel_dump_traceback_later()
            raise Failed(story(one, error)) from None
        took_s = time.perf_counter() - began
        tally.inputs += 1
        tally.read_bytes += len(one.raw)
        tally.seen[word_for(outcome)] += 1
        if took_s > tally.slowest_s:
            tally.slowest_s, tally.slowest = took_s, one.raw
    faulthandler.cancel_dump_traceback_later()
    return tally


def word_for(outcome: Outcome) -> str:
    end = f"{outcome.status}" if outcome.status else "needs more" if outcome.waits else "idle"
    return f"{min(len(outcome.requests), 3)} requests, then {end}"


# --- what broke


def breaks(one: Input) -> str:
    """Which rule it breaks, empty if it breaks none. With new parsers: it must not depend on what was before."""
    new = parsers()
    try:
        agreed(new["h11"], new["httptools"], one.limits, one.raw, one.cuts)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def story(one: Input, error: Exception) -> str:
    if not breaks(one):
        return f"only behind the inputs before it: {type(error).__name__}: {error}\n{as_file(one, 'x')}"
    short = shortened(one)
    return f"{breaks(short)}\n\n{as_file(short, 'what the fuzzer found')}"


def shortened(one: Input, broken: Callable[[Input], str] = breaks) -> Input:
    """As short as leaving out pieces makes it, with one cut if that will do, or what time allows of it."""
    ends = time.monotonic() + SHORTEN_S
    for cut in one.cuts:
        if broken(alone := replace(one, cuts=(cut,))):
            one = alone
            break
    size = max(1, len(one.raw) // 2)
    while size and time.monotonic() < ends:
        start = 0
        while start < len(one.raw) and time.monotonic() < ends:
            cuts = tuple(cut if cut <= start else max(start, cut - size) for cut in one.cuts)
            shorter = Input(one.raw[:start] + one.raw[start + size :], cuts, one.limits)
            if broken(shorter):
                one = shorter
            else:
                start += size
        size //= 2
    return one


def as_file(one: Input, why: str) -> str:
    default = Limits()
    values = {f.name: getattr(one.limits, f.name) for f in fields(Limits) if f.init}
    other = [f"{name}={value}" for name, value in values.items() if value != getattr(default, name)]
    limits = f"# limits: {' '.join(other)}\n" if other else ""
    return f"# why: {why} (cut at {list(one.cuts)})\n{limits}\n{escaped(one.raw)}"


# --- atheris


def grow(folder: str, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # not among the requirements

    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases()):
        if len(case.raw) <= INPUT_BYTES_MAX:
            Path(folder, f"corpus-{number:04}").write_bytes(case.raw)
    heads = parsers()

    def one_input(raw: bytes) -> None:
        limits, cut = LIMITS[len(raw) % len(LIMITS)], raw[len(raw) // 2] if raw else 0
        agreed(heads["h11"], heads["httptools"], limits, raw, [cut])

    atheris.instrument_all()
    options = (f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", "-timeout=10")
    atheris.Setup(["fuzz", *options, folder], one_input)
    atheris.Fuzz()


# --- the command line


def run(options: argparse.Namespace) -> Tally:
    """All batches, a few at a time. Raises `Failed`."""
    began, total = time.monotonic(), Tally()
    batches = iter(range((options.inputs + BATCH - 1) // BATCH))
    running: set[Future[Tally]] = set()
    with ProcessPoolExecutor(options.jobs) as pool:
        try:
            while True:
                late = options.seconds and time.monotonic() - began > options.seconds
                while not late and len(running) < 2 * options.jobs and (batch := next(batches, None)) is not None:
                    size = min(BATCH, options.inputs - batch * BATCH)
                    running.add(pool.submit(run_batch, options.seed, batch, size, options.seeds))
                if not running:
                    return total
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    total.add(future.result())
                _progress(total, time.monotonic() - began)
        except (Failed, BrokenProcessPool):
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _progress(total: Tally, took_s: float) -> None:
    if total.inputs % (20 * BATCH) == 0:
        print(f"{total.inputs} inputs, {took_s:.0f} s, {total.inputs / took_s:.0f} inputs/s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=0, help="begin nothing new after so long")
    parser.add_argument("--seeds", default="", help="a folder with more inputs to mutate")
    parser.add_argument("--grow", default="", help="a folder where atheris keeps what it finds in --seconds")
    options = parser.parse_args()
    if options.grow:
        grow(options.grow, options.seconds or 60)
    began = time.monotonic()
    try:
        total = run(options)
    except Failed as failure:
        print(failure)
        return 1
    except BrokenProcessPool:
        print(f"a batch took more than {HANGS_S:.0f} s, or killed its process")
        return 1
    took_s = time.monotonic() - began
    print(f"{total.inputs} inputs, {total.read_bytes} bytes, {took_s:.1f} s, {total.inputs / took_s:.0f} inputs/s")
    print(f"slowest: {1000 * total.slowest_s:.1f} ms for {len(total.slowest)} bytes")
    for word, count in sorted(total.seen.items()):
        print(f"{count:>12}  {word}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
