"""What comes on a connection, as the clients of `graceserve torture` read it: whole, and byte by byte."""

import pytest

from graceserve.torture.answers import Answer, Answers, Broken

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
OLD = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
UNTIL_EOF = b"HTTP/1.1 200 OK\r\n\r\nall until the end"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def asked(*methods: str, close: bool = False) -> Answers:
    answers = Answers()
    for method in methods or ("GET",):
        answers.expect(method, close)
    return answers


def fed(answers: Answers, data: bytes, size: int) -> list[Answer]:
    found = []
    for start in range(0, len(data), size):
        found += answers.feed(data[start : start + size])
    return found


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("methods", "data", "expected"),
    [
        (["GET"], PLAIN, [Answer(200, 5, False)]),
        (["POST"], CONTINUE + CHUNKED, [Answer(201, 4, False)]),
        (["GET"], CLOSE, [Answer(200, 2, True)]),
        (["GET"], OLD, [Answer(200, 2, True)]),
        (["GET"], EMPTY, [Answer(204, 0, False)]),
        (["GET", "GET", "POST", "GET"], PLAIN + EMPTY + CHUNKED + CLOSE,
         [Answer(200, 5, False), Answer(204, 0, False), Answer(201, 4, False), Answer(200, 2, True)]),
    ],
)  # fmt: skip
def test_answers(methods: list[str], data: bytes, expected: list[Answer], size: int) -> None:
    answers = asked(*methods)
    assert fed(answers, data, size) == expected
    assert answers.waiting == 0 and not answers.begun


def test_one_after_the_other() -> None:
    answers = Answers()
    for _ in range(3):
        answers.expect("GET")
        assert answers.waiting == 1
        assert answers.feed(PLAIN[:30]) == [] and answers.begun
        assert answers.feed(PLAIN[30:]) == [Answer(200, 5, False)]
    assert answers.feed(b"") == []


def test_the_client_s_own_close_is_one() -> None:
    assert asked(close=True).feed(PLAIN) == [Answer(200, 5, True)]


def test_a_body_until_the_end_of_the_stream() -> None:
    answers = asked()
    assert answers.feed(UNTIL_EOF) == []
    assert answers.feed(b"") == [Answer(200, 17, True)]


def test_nothing_follows_an_announced_close() -> None:
    """What was pipelined behind it stays unanswered."""
    answers = asked("GET", "GET", "GET")
    assert answers.feed(PLAIN + CLOSE + PLAIN) == [Answer(200, 5, False), Answer(200, 2, True)]
    assert answers.feed(PLAIN) == answers.feed(b"") == []
    assert answers.waiting == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "closed without an answer"),
        (PLAIN[:20], "closed after 20 bytes of a head"),
        (PLAIN[:-2], "closed after 3 bytes of the body of a response (200)"),
        (CHUNKED[:-5], "closed after 4 bytes of the body of a response (201)"),
    ],
)
def test_an_answer_that_is_cut(data: bytes, expected: str) -> None:
    answers = asked()
    if data:
        assert answers.feed(data) == []
    with pytest.raises(Broken) as caught:
        answers.feed(b"")
    assert str(caught.value) == expected


def test_cut_in_a_later_answer() -> None:
    answers = asked("GET", "GET")
    assert answers.feed(PLAIN + PLAIN[:9]) == [Answer(200, 5, False)]
    with pytest.raises(Broken, match="closed after 9 bytes of a head"):
        answers.feed(b"")


@pytest.mark.parametrize(
    ("asks", "data", "expected"),
    [
        (1, b"SSH-2.0-OpenSSH\r\n\r\n", "this is not HTTP"),
        (1, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "this is not HTTP"),
        (1, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "status 101|not HTTP"),
        (1, PLAIN + b"more", "4 bytes behind a response"),
        (0, b"HTTP/1.1 408 Request Timeout\r\n\r\n", "bytes that nobody has asked for: b'HTTP/1.1 408"),
    ],
)
def test_what_is_no_answer(asks: int, data: bytes, expected: str) -> None:
    answers = asked() if asks else Answers()
    with pytest.raises(Broken, match=expected):
        answers.feed(data)
