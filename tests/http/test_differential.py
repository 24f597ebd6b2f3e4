"""Requests that nobody wrote down: made by a grammar, spoilt, cut anywhere. All parsers must give the same.

That is: the same requests, bodies and refusals, however the bytes were cut, without an exception, and no reader keeps
more than it must (`corpus.Reading` looks at that). There is no list of accepted differences: there are none.
"""

import os
import re
from collections.abc import Callable

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graceserve.worker.http.policy import Admitted, admit
from graceserve.worker.http.port import Broken, Limits
from tests.http import fuzz
from tests.http.corpus import Request, agreed, as_request, cases, parsers

HEADS = parsers()  # as in a worker: what one request leaves behind in a parser would be found by another one
EXAMPLES = int(os.environ.get("GRACESERVE_TEST_EXAMPLES", "150"))
often = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


# --- the grammar


def one_of(*words: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(words)


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def seldom(other: st.SearchStrategy[bytes], usual: bytes) -> st.SearchStrategy[bytes]:
    """`usual` nine times of ten."""
    return st.integers(0, 9).flatmap(lambda number: other if number == 0 else st.just(usual))


BYTES = st.binary(min_size=1, max_size=3)
TOKEN = st.text("ABCDXYZabcxyz0189!#$%&'*+-.^_`|~", min_size=1, max_size=12).map(str.encode)
VISIBLE = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20).map(str.encode)
TEXT = st.text([chr(code) for code in (9, *range(0x20, 0x7F), *range(0x80, 0x100))], max_size=20).map(
    lambda text: text.encode("latin-1")
)

METHOD = one_of(b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"PRI", b"M-SEARCH", b"get", b"X") | TOKEN
HOST = one_of(b"a", b"", b"a:80", b"[::1]", b"[::1]:80", b"a,b", b"u@a", b"a/b", b"a b", b":80", b"a:x") | VISIBLE
TARGET = (
    joined(one_of(b"/", b"/a", b"*", b"", b"?", b"a:80"), VISIBLE)
    | joined(one_of(b"http://", b"HTTPS://", b"ftp://", b"http:/"), HOST, one_of(b"", b"/x", b"?y", b"#z"))
    | VISIBLE
)
VERSION = seldom(one_of(b"HTTP/1.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1", b"RTSP/1.0", b"") | VISIBLE,
                 b"HTTP/1.1")  # fmt: skip
SPACE = seldom(one_of(b"  ", b"\t", b"", b"\x0b", b"\r", b"\xa0"), b" ")
LINE_END = seldom(one_of(b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n ", b""), b"\r\n")
NUMBER = st.integers(0, 40).map(lambda number: b"%d" % number)

LENGTH = NUMBER | one_of(b"", b"+3", b"-0", b"3, 3", b"3, 4", b"03", b"0x3", b"3 ", b"\xb3", b"9" * 30)
CODING = one_of(b"chunked", b"chunked", b"Chunked", b"gzip", b"gzip, chunked", b"chunked, chunked", b",chunked",
                b"chunked,", b"", b"identity", b"x", b"\tchunked ", b"\x0bchunked", b"chunked;a=b")  # fmt: skip
CONNECTION = one_of(b"close", b"keep-alive", b"upgrade", b"Upgrade, close", b"x, CLOSE", b"", b"TE")
NAME = joined(TOKEN) | one_of(b"X_Y", b"X-Y", b"Proxy", b"", b"X Y", b"X\xc4", b"Content_Length", b"Cookie", b"cookie")
COLON = seldom(one_of(b" :", b"\t:", b"", b"::", b":\t", b":\x0b"), b":")
KNOWN = (
    st.tuples(one_of(b"Host", b"host", b"HOST"), HOST)
    | st.tuples(one_of(b"Content-Length", b"content-length"), LENGTH)
    | st.tuples(one_of(b"Transfer-Encoding", b"transfer-encoding"), CODING)
    | st.tuples(one_of(b"Connection", b"connection"), CONNECTION)
    | st.tuples(one_of(b"Upgrade"), one_of(b"h2c", b"websocket", b"", b"x, y"))
    | st.tuples(one_of(b"Expect", b"expect"), one_of(b"100-continue", b"100-Continue", b"", b"x"))
    | st.tuples(one_of(b"Content-Type", b"TE", b"Trailer", b"HTTP2-Settings", b"Proxy-Connection"), TEXT)
)
FIELD = (KNOWN | st.tuples(NAME, TEXT)).flatmap(
    lambda field: joined(st.just(field[0]), COLON, one_of(b" ", b"", b"\t  "), st.just(field[1]), LINE_END)
)
HOST_LINE = seldom(one_of(b"", b"Host: a\r\nHost: b\r\n", b"Host : a\r\n", b"Host:\r\n a\r\n"), b"Host: a\r\n")
FIELDS = st.lists(FIELD, max_size=6).map(b"".join)

DATA = st.binary(max_size=20)
EXTENSION = seldom(one_of(b";x", b";x=y", b" ; x", b';x="\\""', b";\x00", b" ", b";\n", b";" + b"x" * 30), b"")
SIZE_FORM = st.sampled_from(("%x", "%X", "000%x", "0x%x", "+%x", "%x ", "-%x", "%d"))
CHUNK = st.tuples(DATA, st.integers(0, 9), SIZE_FORM).flatmap(
    lambda made: joined(
        st.just((made[2] if made[1] == 0 else "%x").__mod__(len(made[0])).encode()), EXTENSION, LINE_END,
        st.just(made[0]), LINE_END,
    )
)  # fmt: skip
LAST = joined(one_of(b"0", b"0", b"00", b"", b"0;x"), LINE_END, st.lists(FIELD, max_size=2).map(b"".join), LINE_END)
BODY = DATA | joined(st.lists(CHUNK, max_size=4).map(b"".join), LAST) | st.just(b"")
FRAMING = st.sampled_from((b"", b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"))
REQUEST = joined(
    seldom(one_of(b"\r\n", b"\n", b"\r", b" "), b""),
    METHOD, SPACE, TARGET, SPACE, VERSION, LINE_END, HOST_LINE, FRAMING, FIELDS, LINE_END, BODY,
)  # fmt: skip
# as most are: a good head, so that it is the body that is looked at
GOOD_HEAD = joined(one_of(b"GET", b"POST", b"X"), st.just(b" /a?b HTTP/1.1\r\nHost: a\r\n"), FRAMING, st.just(b"\r\n"))
CORPUS = st.sampled_from([case.raw for case in cases() if len(case.raw) < 1000])
REQUESTS = st.lists(REQUEST | joined(GOOD_HEAD, BODY) | CORPUS, min_size=1, max_size=3).map(b"".join)

# --- what spoils them

PLACE = st.floats(0, 1)
SPOILER = st.one_of(
    st.tuples(st.just("insert"), PLACE, st.sampled_from(fuzz.TOKENS) | BYTES),
    st.tuples(st.just("replace"), PLACE, st.sampled_from(fuzz.TOKENS) | BYTES),
    st.tuples(st.just("delete"), PLACE, st.binary(min_size=1, max_size=20)),  # as many as this is long
    st.tuples(st.just("line"), PLACE, st.sampled_from(fuzz.LINES)),
    st.tuples(st.just("again"), PLACE, st.just(b"")),
    st.tuples(st.just("splice"), PLACE, CORPUS),
)


def spoil(raw: bytes, what: str, place: float, with_what: bytes) -> bytes:
    at = int(place * len(raw))
    match what:
        case "insert":
            return raw[:at] + with_what + raw[at:]
        case "replace":
            return raw[:at] + with_what + raw[at + len(with_what) :]
        case "delete":
            return raw[:at] + raw[at + len(with_what) :]
        case "splice":
            return raw[:at] + with_what[int(place * len(with_what)) :]
    lines = raw.split(b"\r\n")
    number = int(place * (len(lines) - 1))
    return b"\r\n".join([*lines[:number], with_what or lines[number], *lines[number:]])


LIMITS = st.sampled_from(fuzz.LIMITS)
CUTS = st.lists(st.integers(0, 1500), max_size=6)


@often
@given(raw=REQUESTS, spoilers=st.lists(SPOILER, max_size=3), limits=LIMITS, cuts=CUTS)
@example(raw=b"POS", spoilers=[], limits=Limits(), cuts=[])
@example(raw=b"\r\n\r\n", spoilers=[], limits=Limits(), cuts=[1, 2, 3])
def test_all_parsers_give_the_same(
    raw: bytes, spoilers: list[tuple[str, float, bytes]], limits: Limits, cuts: list[int]
) -> None:
    for spoiler in spoilers:
        raw = spoil(raw, *spoiler)
    agreed(HEADS["h11"], HEADS["httptools"], limits, raw, cuts)


HEAD_END = re.compile(rb"\n\r?\n")


@often
@given(raw=joined(METHOD, SPACE, TARGET, SPACE, VERSION, LINE_END, HOST_LINE, FRAMING, FIELDS, st.just(b"\r\n\r\n")))
def test_all_parsers_read_a_head_the_same(raw: bytes) -> None:
    """Without a reader before them, which knows good heads and those that are too long."""
    end = HEAD_END.search(raw)
    assert end is not None
    seen: list[int | Request] = []
    for heads in HEADS.values():
        head = heads.parse(raw[: end.end()])
        admitted = head if isinstance(head, Broken) else admit(head, Limits())
        seen.append(as_request(admitted, b"") if isinstance(admitted, Admitted) else admitted.status)
    assert seen[0] == seen[1]


@often
@given(raw=st.binary(max_size=300), ended=st.booleans(), cuts=CUTS)
def test_noise(raw: bytes, ended: bool, cuts: list[int]) -> None:
    agreed(HEADS["h11"], HEADS["httptools"], Limits(), raw + b"\r\n\r\n" * ended, cuts)


# --- the fuzzer, for a moment (`python -m tests.http.fuzz` runs it for hours)


def test_the_fuzzer_finds_nothing() -> None:
    tally = fuzz.run_batch(seed=3, batch=0, size=3000)
    assert tally.inputs == 3000
    words = " ".join(tally.seen)
    for seen in (
        "idle",
        "needs more",
        "1 requests",
        "2 requests",
        "400",
        "405",
        "413",
        "414",
        "417",
        "431",
        "501",
        "505",
    ):
        assert seen in words, "it does not get there any more"


def test_the_fuzzer_is_the_same_for_a_seed() -> None:
    assert list(fuzz.inputs(1, 2, 50)) == list(fuzz.inputs(1, 2, 50)) != list(fuzz.inputs(2, 2, 50))


def broken_if(rule: Callable[[bytes], bool]) -> Callable[[fuzz.Input], str]:
    return lambda one: "broken" if rule(one.raw) else ""


def test_the_fuzzer_makes_what_it_finds_short() -> None:
    found = fuzz.Input(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nX", (3, 7, 20), Limits(fields_max=3))
    short = fuzz.shortened(found, broken_if(lambda raw: b"\n" in raw and raw.endswith(b"X")))
    assert (short.raw, len(short.cuts)) == (b"\nX", 1)
    assert fuzz.as_file(short, "w").endswith("# limits: fields_max=3\n\n\\n\nX")
