"""Each request of the corpus, through both parsers: whole, byte by byte, cut in two everywhere, and with neighbours.

All that with one memo, which does not know it at first, and does from the third time on.
"""

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from graceserve.worker.http.memo import BLOCKS_MAX, FIELDS_MAX, SEEN_MAX, Memo
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.port import Broken, Head, Heads, Limits
from graceserve.worker.http.reader import END, Event, Reader
from tests.http.corpus import (
    FOLDERS,
    ROOT,
    Case,
    Outcome,
    Reading,
    Request,
    byte_by_byte,
    cases,
    escaped,
    in_two,
    parse,
    parsers,
    read,
    unescaped,
)

NEIGHBOUR_RAW = b"GET /n HTTP/1.1\r\nHost: n\r\n\r\n"
NEIGHBOUR = Request("GET", "/n", "/n", "", "HTTP/1.1", (("HTTP_HOST", "n"),), b"", True, False)

CASES = {case.name: case for case in cases()}
DEFAULT = Limits()
HEADS = parsers()  # one parser reads the heads of all connections, as in a worker


def ways(case: Case) -> Iterator[tuple[list[bytes], Outcome]]:
    """How the bytes arrive, and what must come of them."""
    raw, expected = case.raw, case.expected
    yield [raw], expected
    yield byte_by_byte(raw), expected
    for pieces in in_two(raw):
        yield pieces, expected
    yield from with_neighbours(raw, expected)


def with_neighbours(raw: bytes, expected: Outcome) -> Iterator[tuple[list[bytes], Outcome]]:
    """A good request in front, and behind where the connection goes on."""
    before = Outcome((NEIGHBOUR, *expected.requests), expected.status, expected.waits)
    yield [NEIGHBOUR_RAW + raw], before
    yield [NEIGHBOUR_RAW[:-1], NEIGHBOUR_RAW[-1:] + raw], before
    if expected.status:
        yield [raw + NEIGHBOUR_RAW], expected
    elif not expected.waits:
        between = Outcome((NEIGHBOUR, *expected.requests, NEIGHBOUR))
        yield [NEIGHBOUR_RAW + raw + NEIGHBOUR_RAW], between
        yield byte_by_byte(NEIGHBOUR_RAW + raw + NEIGHBOUR_RAW), between
        yield [raw, NEIGHBOUR_RAW], Outcome((*expected.requests, NEIGHBOUR))


@pytest.mark.parametrize("name", CASES)
def test_what_comes_of_a_request(name: str) -> None:
    case = CASES[name]
    for pieces, expected in ways(case):
        for parser, heads in HEADS.items():
            assert read(heads, case.limits, pieces) == expected, (parser, pieces)


@pytest.mark.parametrize("parser", HEADS)
def test_all_good_requests_on_one_connection(parser: str) -> None:
    """Nothing of one request stays for the next, in the reader or in the parser."""
    good = [case for case in CASES.values() if case.name.startswith("valid/") and case.limits == DEFAULT]
    raw = b"".join(case.raw for case in good)
    expected = Outcome(tuple(request for case in good for request in case.expected.requests))
    for size in (len(raw), 65_536, 1000, 7):
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert read(HEADS[parser], DEFAULT, pieces) == expected


@pytest.mark.parametrize("parser", HEADS)
def test_readers_share_a_parser(parser: str) -> None:
    """All connections of a worker at once, a byte of each in turn: none sees another's fields."""
    chosen = [case for case in CASES.values() if len(case.raw) < 500]
    readings = [Reading(HEADS[parser], case.limits) for case in chosen]
    for at in range(500):
        for case, reading in zip(chosen, readings, strict=True):
            if at < len(case.raw):
                reading.feed(case.raw[at : at + 1])
    for case, reading in zip(chosen, readings, strict=True):
        assert reading.account().outcome == case.expected, case.name


@pytest.mark.parametrize("parser", HEADS)
def test_a_new_parser_reads_as_a_used_one(parser: str) -> None:
    """Whatever it has read before, here: everything hostile in the corpus."""
    for case in CASES.values():
        new: Heads = parsers()[parser]
        assert read(new, case.limits, [case.raw]) == read(HEADS[parser], case.limits, [case.raw]), case.name


# --- the policy


class NaiveHeads:
    """A parser that takes everything."""

    def parse(self, raw: bytes) -> Head | Broken:
        line, *fields = raw[:-4].split(b"\r\n")
        method, _, rest = line.partition(b" ")
        target, _, version = rest.rpartition(b" HTTP/")
        return Head(method, target, version, [(name, value) for name, _, value in (f.partition(b":") for f in fields)])


NOT_THE_PARSERS = ("chunked", "coding", "expect", "host", "length", "method", "repeated", "version")


def test_the_policy_relies_on_no_parser() -> None:
    """Who is asked, where a body ends: both parsers look at that, too, but it does not depend on them."""
    chosen = [
        case for name, case in CASES.items() if name.startswith("invalid/") and name.split("/")[1] in NOT_THE_PARSERS
    ]
    assert len(chosen) > 200
    for case in chosen:
        outcome = read(NaiveHeads(), case.limits, [case.raw])
        assert outcome.status and outcome.requests == case.expected.requests, case.name


# --- the memo

FIELDS = b"Host: a\r\nX-Two: 2\r\nConnection: close\r\n\r\n"


def memory() -> Memo:
    """Knows FIELDS."""
    memo = Memo(DEFAULT)
    for _ in range(2):
        assert memo.recall(b"GET / HTTP/1.1\r\n" + FIELDS) is None
        read(HEADS["httptools"], DEFAULT, [b"GET / HTTP/1.1\r\n" + FIELDS], memo)
    return memo


def test_most_good_heads_are_remembered() -> None:
    """All the others of this file, every case is read with a memo that knows it, and with one that does not."""
    bare = [case for case in CASES.values() if case.name.startswith("valid/") and case.raw.count(b"\r\n\r\n") == 1]
    known = 0
    for case in bare:
        memo = Memo(case.limits)
        for _ in range(2):
            read(HEADS["h11"], case.limits, [case.raw], memo)
        known += memo.recall(case.raw) is not None
        assert read(HEADS["h11"], case.limits, [case.raw], memo) == case.expected, case.name
    assert known > len(bare) // 2


LINES = [
    b"GET /a%2Fb?c=d%20e?f HTTP/1.1",
    b"HEAD //a:b@c/../;d HTTP/1.1",
    b'DELETE /<>"{}|\\^`[] HTTP/1.1',
    b"OPTIONS /* HTTP/1.1",
    b"PUT /" + b"a" * 300 + b" HTTP/1.1",
]


@pytest.mark.parametrize("line", LINES)
def test_a_usual_line_in_front_of_known_fields(line: bytes) -> None:
    memo, raw = memory(), line + b"\r\n" + FIELDS
    long_way = read(HEADS["h11"], DEFAULT, [raw], Memo(DEFAULT, 0))
    assert long_way.requests and not long_way.requests[0].keep_alive
    for _ in range(6):  # more than there are lines remembered
        known = memo.recall(raw)
        assert known is not None and known.alike is not None and known.raw == raw
        assert read(HEADS["httptools"], DEFAULT, [raw], memo) == long_way
        memo.recall(b"GET /other HTTP/1.1\r\n" + FIELDS)


ODD_LINES = [
    b"", b" ", b"GET", b"GET /", b"GET / ", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1",
    b"GET / HTTP/1.1 ", b"GET /a b HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\ta HTTP/1.1", b"GET /\x0ba HTTP/1.1",
    b"GET / HTTP/1.0", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / http/1.1", b"GET / HTTP/1.1\r",
    b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\n\n", b"GET / HTTP/1.1\nHost: b", b"\nGET / HTTP/1.1",
    b"\rGET / HTTP/1.1", b"get / HTTP/1.1", b"Get / HTTP/1.1", b"CONNECT / HTTP/1.1", b"CONNECT a:1 HTTP/1.1",
    b"PRI * HTTP/2.0", b"TRACE / HTTP/1.1", b"M-SEARCH / HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET * HTTP/1.1",
    b"GET a HTTP/1.1", b"GET ?a HTTP/1.1", b"GET http://b/c HTTP/1.1", b"GET //b#c HTTP/1.1", b"GET /# HTTP/1.1",
    b"GET /\x7f HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\xa0 HTTP/1.1",
    b"GET /\xe4 HTTP/1.1", b"GET /\xff HTTP/1.1", b"G\xc4T / HTTP/1.1", b"GET / HTTP/1.1\x00",
    b"GET /\x85/ HTTP/1.1", b"GET / HTTP/\xb9.1",
]  # fmt: skip


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_in_front_of_known_fields_goes_the_long_way(line: bytes) -> None:
    memo, raw = memory(), line + b"\r\n" + FIELDS
    assert len(raw) > memo.head_bytes_max or memo.recall(raw) is None
    long_way = read(HEADS["h11"], DEFAULT, [raw], Memo(DEFAULT, 0))
    for _ in range(3):
        assert read(HEADS["httptools"], DEFAULT, [raw], memo) == long_way
    assert memo.recall(b"GET / HTTP/1.1\r\n" + FIELDS) is not None


FORGOTTEN = [
    b"Host: a\r\nContent-Length: 1\r\n\r\n",
    b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"Host: a\r\nExpect: 100-continue\r\n\r\n",
    b"Host: a\r\nExpect: x\r\n\r\n",
    b"Host: a\r\nHost: a\r\n\r\n",
    b"Host: a\r\n X: y\r\n\r\n",
    b"Host: a\nX: y\r\n\r\n",
    b"Host: a\r\nX : y\r\n\r\n",
    b"X: y\r\n\r\n",
    b"\r\n",
]


@pytest.mark.parametrize("fields", FORGOTTEN)
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET http://b/ HTTP/1.1"])
def test_fields_that_are_never_remembered(line: bytes, fields: bytes) -> None:
    memo = Memo(DEFAULT)
    for _ in range(3):
        read(HEADS["httptools"], DEFAULT, [line + b"\r\n" + fields], memo)
    assert memo.recall(b"GET / HTTP/1.1\r\n" + fields) is None


def test_an_older_protocol_or_another_host_teaches_nothing() -> None:
    for line in (b"GET / HTTP/1.0", b"GET http://b/ HTTP/1.1", b"OPTIONS * HTTP/1.1", b"TRACE / HTTP/1.1"):
        memo = Memo(DEFAULT)
        for _ in range(3):
            read(HEADS["httptools"], DEFAULT, [line + b"\r\n" + FIELDS], memo)
        assert memo.recall(b"GET / HTTP/1.1\r\n" + FIELDS) is None


def test_the_memo_has_an_end() -> None:
    """What is used stays, what is not goes; a request that comes once is not kept at all."""
    memo, used = memory(), b"GET / HTTP/1.1\r\n" + FIELDS
    for number in range(3 * max(BLOCKS_MAX, FIELDS_MAX)):
        raw = b"GET / HTTP/1.1\r\nHost: h%d\r\n\r\n" % number
        for known in (False, False, True):
            assert (memo.recall(raw) is not None) == known
            read(HEADS["httptools"], DEFAULT, [raw], memo)
            assert memo.recall(used) is not None
    assert memo.recall(b"GET / HTTP/1.1\r\nHost: h0\r\n\r\n") is None
    for number in range(3 * SEEN_MAX):
        read(HEADS["httptools"], DEFAULT, [b"GET / HTTP/1.1\r\nHost: once%d\r\n\r\n" % number], memo)
    assert memo.recall(used) is not None


LEARNED = b"Host: a\r\nX-Id: 1\r\nCookie: c=d\r\nConnection: keep-alive\r\nX-Raw: \xe4\r\n\r\n"
NEW_FIELDS = [  # whether they are known by their names and lines
    (b"Host: a\r\nX-Id: 2\r\n\r\n", True),
    (b"Cookie: e=f; g=h\r\nX-Id: \r\nHost: a\r\n\r\n", True),
    (b"X-Raw: \xe4\r\nConnection: keep-alive\r\nHost: a\r\n\r\n", True),
    (b"X-Id: ~!@#$%^&*()_+|}{:\"?><,./;'[]\\=-` 0\r\nHost: a\r\n\r\n", True),
    (b"X-Id: 2\r\n\r\n", False),
    (b"Host: b\r\n\r\n", False),
    (b"host: a\r\n\r\n", False),
    (b"Host: a\r\nHost: a\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\r\nX-Id: 3\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\r\nx-id: 3\r\n\r\n", False),
    (b"Host: a\r\nX_Id: 2\r\n\r\n", False),
    (b"Host: a\r\nX-Id:2\r\n\r\n", False),
    (b"Host: a\r\nX-Id :2\r\n\r\n", False),
    (b"Host: a\r\nX-Id:  2\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2 \r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\t\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\t3\r\n\r\n", False),
    (b"Host: a\r\nX-Id: \xe5\r\n\r\n", False),
    (b"Host: a\r\nX-Id: \x00\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\rHost: b\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\nHost: b\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\r\n folded\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", False),
    (b"Host: a\r\nX-Id: 2\r\n", False),
    (b"Host: a\r\nX-New: 2\r\n\r\n", False),
    (b"Host: a\r\nConnection: close\r\n\r\n", False),
    (b"Host: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", False),
    (b"Host: a\r\nContent-Length: 0\r\n\r\n", False),
    (b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
    (b"Host: a\r\nExpect: 100-continue\r\n\r\n", False),
    (b"Host: a\r\nUpgrade: h2c\r\n\r\n", False),
    (b"Host: a\r\nProxy: x\r\n\r\n", False),
    (b"Host: a\r\nContent-Type: x\r\n\r\n", False),
    (b"\r\n", False),
]


@pytest.mark.parametrize(("fields", "known"), NEW_FIELDS)
def test_fields_that_are_known_one_by_one(fields: bytes, known: bool) -> None:
    memo, raw = Memo(DEFAULT), b"GET /p?q HTTP/1.1\r\n" + fields
    for _ in range(2):
        read(HEADS["httptools"], DEFAULT, [b"GET / HTTP/1.1\r\n" + LEARNED], memo)
    assert (memo.recall(raw) is not None) == known
    long_way = read(HEADS["h11"], DEFAULT, [raw], Memo(DEFAULT, 0))
    for _ in range(3):
        assert read(HEADS["httptools"], DEFAULT, [raw], memo) == long_way


def test_more_fields_than_a_limit_allows_are_not_known_either() -> None:
    limits = Limits(fields_max=2)
    memo = Memo(limits)
    for name in (b"A", b"B", b"A", b"B"):
        read(HEADS["h11"], limits, [b"GET / HTTP/1.1\r\nHost: a\r\n%b: 1\r\n\r\n" % name], memo)
    assert memo.recall(b"GET / HTTP/1.1\r\nHost: a\r\nB: 2\r\n\r\n") is not None
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n\r\n"
    assert memo.recall(raw) is None and read(HEADS["httptools"], limits, [raw], memo).status == 431


# --- the reader


def events(reader: Reader, data: bytes) -> Iterator[Event]:
    reader.receive(data)
    while (event := reader.next_event()) is not None:
        yield event


@pytest.mark.parametrize("parser", HEADS)
def test_a_reader_stops_behind_each_request(parser: str) -> None:
    """What is pipelined costs nothing before its turn, and counts as held: the connection is not idle."""
    first = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    reader = Reader(HEADS[parser], DEFAULT)
    given = events(reader, first + b"\r\n" + NEIGHBOUR_RAW + b"\r\n")
    assert isinstance(next(given), Admitted)
    assert not reader.bodyless
    assert next(given) == b"abc"
    assert next(given) is END
    assert reader.bodyless
    assert reader.held_bytes == len(NEIGHBOUR_RAW) + 2  # what is behind a body is dropped with it
    assert isinstance(next(given), Admitted)
    assert reader.bodyless
    assert list(given) == []
    assert reader.held_bytes == 0


@pytest.mark.parametrize("parser", HEADS)
def test_a_body_is_given_as_it_comes(parser: str) -> None:
    reader = Reader(HEADS[parser], DEFAULT)
    [admitted] = events(reader, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(admitted, Admitted)
    assert list(events(reader, b"5\r\nab")) == [b"ab"]
    assert reader.held_bytes == 0
    assert list(events(reader, b"cde\r")) == [b"cde"]
    assert list(events(reader, b"\n0\r\n\r\n")) == [END]


def cpu_s(data: bytes) -> float:
    began = time.process_time()
    assert sum(1 for _ in events(Reader(HEADS["httptools"], DEFAULT), data)) > 0
    return time.process_time() - began


@pytest.mark.parametrize("raw", [NEIGHBOUR_RAW, CASES["valid/pipeline/chunked-and-get"].raw])
def test_many_pipelined_requests_cost_no_more_each(raw: bytes) -> None:
    """Eight times as many in one piece are eight times the work; 64 times, if each looked at all that is behind it."""
    few = min(cpu_s(raw * 1500) for _ in range(5))
    many = min(cpu_s(raw * 12_000) for _ in range(2))
    assert many < 24 * few


# --- the corpus itself


def test_the_corpus_is_in_order() -> None:
    counts = Counter(name.split("/")[0] for name in CASES)
    assert set(counts) == set(FOLDERS)
    assert counts["valid"] >= 100 and counts["invalid"] >= 200
    assert sum(1 for path in ROOT.rglob("*") if path.is_file()) == len(CASES), "a file that is not loaded"
    raws = Counter((case.raw, case.limits) for case in CASES.values())
    assert [case.name for case in CASES.values() if raws[case.raw, case.limits] > 1] == []


def test_a_file_is_where_it_belongs() -> None:
    for name, case in CASES.items():
        expected = case.expected
        match name.split("/")[0]:
            case "valid":
                assert expected.requests and not expected.status and not expected.waits, name
            case "invalid":
                assert expected.status in (400, 405, 413, 414, 417, 431, 501, 505) and not expected.waits, name
            case "incomplete":
                assert expected.waits and not expected.status, name


HEAD = "# rfc: 9112 3\n# why: x\n# status: 400\n"


@pytest.mark.parametrize(
    "text",
    [
        "GET / HTTP/1.1\\r\\n\n",
        HEAD,
        HEAD + "\nx",
        HEAD + "\nx \n",
        HEAD + "\nx\ty\n",
        HEAD + "\nx\\q\n",
        HEAD + "\nx\\x4\n",
        HEAD + "\n\\{x*3\n",
        HEAD + "# status: 400\n\nx\n",
        HEAD + "# path: /\n\nx\n",
        HEAD + "# request: GET / HTTP/1.1\n\nx\n",
        HEAD + "# request: GET / HTTP/1.1\n# path: /\n# hots: a\n\nx\n",
        HEAD.replace("why", "wy") + "\nx\n",
        HEAD.replace("# why: x\n", "") + "\nx\n",
        HEAD.replace("400", "bad") + "\nx\n",
    ],
)
def test_a_file_not_in_the_format_is_an_error(text: str) -> None:
    parse("x", HEAD + "\nx\n")
    with pytest.raises((ValueError, KeyError)):
        parse("x", text)


def test_the_notation_holds_every_byte() -> None:
    raw = bytes(range(256)) * 2 + b" \r\n \\n\\\r\n\n \\\\" + b"*" * 40 + b"}" * 40 + b"\n" * 40 + b"\xff" * 40
    text = escaped(raw)
    assert text.isascii() and "\n\n" not in text and " \n" not in text
    assert unescaped(text.replace("\n", "")) == raw
    assert unescaped("\\{a\\{b\\x63*2}\\r*2}") == b"abcbc\rabcbc\r"
