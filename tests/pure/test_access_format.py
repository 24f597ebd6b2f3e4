"""The access log's lines: gunicorn's atoms, JSON; one line, quoted, in ASCII, whatever a client sends."""

import base64
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceserve.options import BY_FIELD
from graceserve.worker.access_format import Entry, compile_format, escaped, refused, shortened

DEFAULT = str(BY_FIELD["access_logformat"].default)
ENVIRON = {
    "REMOTE_ADDR": "203.0.113.7",
    "REQUEST_METHOD": "POST",
    "RAW_URI": "/shop/caf%C3%A9?page=3",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/shop/caf\xc3\xa9",
    "QUERY_STRING": "page=3",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "CONTENT_TYPE": "text/plain",
    "CONTENT_LENGTH": "5",
    "HTTP_HOST": "shop.example.org",
    "HTTP_REFERER": "https://example.org/",
    "HTTP_USER_AGENT": "curl/8.5",
    "HTTP_X_REQUEST_ID": "4bf9",
    "wsgi.url_scheme": "https",
    "graceserve.generation": 7,
}
HEADERS = [("Content-Type", "text/html"), ("Set-Cookie", "a=1"), ("SET-COOKIE", "b=2"), ("X-Empty", "")]
ENTRY = Entry(ENVIRON, "404 Not Found", HEADERS, 5123, 1.234567, 971_211_336.25, 4711)
REFUSED = Entry(refused("203.0.113.7", b"GET / HTTP/9\r\n"), "505 HTTP Version Not Supported", [], 0, 0.0, 0.0, 4711)
NOTHING = Entry({}, "", [], 0, 0.0, 0.0, 4711)


@pytest.fixture
def denver() -> Iterator[None]:
    """A zone that is not UTC. Entries with an `ended` of their own: a second's text is remembered."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "MST7MDT,M3.2.0,M11.1.0"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def line(form: str, entry: Entry = ENTRY, **changed: Any) -> str:
    return compile_format(form)(replace(entry, **changed))


def with_environ(**changed: Any) -> Entry:
    return replace(ENTRY, environ={**ENVIRON, **changed})


@pytest.mark.parametrize(
    ("atom", "answered", "was_refused"),
    [
        ("%(h)s", "203.0.113.7", "203.0.113.7"),
        ("%(l)s", "-", "-"),
        ("%(u)s", "-", "-"),
        ("%(r)s", "POST /shop/caf%C3%A9?page=3 HTTP/1.1", "GET / HTTP/9"),
        ("%(m)s", "POST", "-"),
        ("%(U)s", "/shop/caf\\xc3\\xa9", "-"),
        ("%(q)s", "page=3", "-"),
        ("%(H)s", "HTTP/1.1", "-"),
        ("%(s)s", "404", "505"),
        ("%(B)s", "5123", "0"),
        ("%(b)s", "5123", "-"),
        ("%(f)s", "https://example.org/", "-"),
        ("%(a)s", "curl/8.5", "-"),
        ("%(T)s", "1", "0"),
        ("%(M)s", "1234", "0"),
        ("%(D)s", "1234567", "0"),
        ("%(L)s", "1.234567", "0.000000"),
        ("%(p)s", "<4711>", "<4711>"),
        ("%({x-request-id}i)s", "4bf9", "-"),
        ("%({Host}i)s", "shop.example.org", "-"),
        ("%({content-type}i)s", "text/plain", "-"),
        ("%({Content-Length}i)s", "5", "-"),
        ("%({content-type}o)s", "text/html", "-"),
        ("%({set-cookie}o)s", "a=1, b=2", "-"),
        ("%({x-empty}o)s", "", "-"),
        ("%({remote_addr}e)s", "203.0.113.7", "203.0.113.7"),
        ("%({REQUEST_METHOD}e)s", "POST", "-"),
        ("%({wsgi.url_scheme}e)s", "https", "-"),
        ("%({graceserve.generation}e)s", "7", "-"),
        ("%({nothing}e)s", "-", "-"),
        ("100%% %(s)s %%(h)s", "100% 404 %(h)s", "100% 505 %(h)s"),
        ("%(m)6s|%(m)-6s|", "  POST|POST  |", "     -|-     |"),
        ("%(D)010d %(T)d", "0001234567 1", "0000000000 0"),
        ("no atom", "no atom", "no atom"),
        ('grün\t"%(s)s"\\', 'grün\t"404"\\', 'grün\t"505"\\'),
    ],
)
def test_atoms(atom: str, answered: str, was_refused: str) -> None:
    assert line(atom) == answered
    assert line(atom, REFUSED) == was_refused


def test_the_default_format(denver: None) -> None:
    assert line(DEFAULT) == (
        '203.0.113.7 - - [10/Oct/2000:14:55:36 -0600] "POST /shop/caf%C3%A9?page=3 HTTP/1.1" 404 5123'
        ' "https://example.org/" "curl/8.5"'
    )
    assert line(DEFAULT, NOTHING, ended=1_000_000_001.0) == ('- - - [08/Sep/2001:19:46:41 -0600] "-" - - "-" "-"')


def test_the_time_is_of_its_second(denver: None) -> None:
    at = compile_format("%(t)s")
    seconds = [f"{at(replace(ENTRY, ended=ended))[13:]}" for ended in (1.0, 1.999, 2.0, 1.5, 3_600.0)]
    assert seconds == [
        "17:00:01 -0700]", "17:00:01 -0700]", "17:00:02 -0700]", "17:00:01 -0700]", "18:00:00 -0700]"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [(0.0, "0 0 0 0.000000"), (0.001234, "0 1 1234 0.001234"), (0.9999996, "1 1000 1000000 1.000000"),
     (61.0000005, "61 61000 61000001 61.000001"), (1e-9, "0 0 0 0.000000")],
)  # fmt: skip
def test_durations_agree(duration_s: float, expected: str) -> None:
    assert line("%(T)s %(M)s %(D)s %(L)s", duration_s=duration_s) == expected


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        ("Basic " + base64.b64encode(b"aladdin:open sesame").decode(), "aladdin"),
        ("bAsIc  " + base64.b64encode(b"a:b:c").decode(), "a"),
        ("Basic " + base64.b64encode(b"j\xc3\xb6rg:").decode(), "j\\xc3\\xb6rg"),
        ("Basic " + base64.b64encode(b'two words" [x]\n:').decode(), 'two%20words\\"%20[x]\\n'),
        ("Basic " + base64.b64encode(b"a-secret-token").decode(), "-"),
        ("Basic " + base64.b64encode(b":secret").decode(), "-"),
        ("Basic YWxhZA", "-"),
        ("Basic \xff", "-"),
        ("Basic", "-"),
        ("Bearer " + base64.b64encode(b"a:b").decode(), "-"),
    ],
)
def test_the_user_of_basic_auth(authorization: str, user: str) -> None:
    assert line("%(u)s", with_environ(HTTP_AUTHORIZATION=authorization)) == user


def test_a_path_that_a_middleware_has_split_is_whole() -> None:
    entry = with_environ(SCRIPT_NAME="/shop", PATH_INFO="/cart")
    assert line("%(U)s", entry) == "/shop/cart"
    assert json.loads(line("json", entry))["path"] == "/shop/cart"


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ("%(h)s %(x)s", "%(x)s"),
        ("%(foo)s", "%(foo)s"),
        ("%({x-id}q)s", "%({x-id}q)s"),
        ("%({}i)s", "%({}i)s"),
        ("%()s", "%()s"),
        ("%h %l", "'%h %l'"),
        ("100%", "'%'"),
        ("%(h)", "'%(h)'"),
        ("%(h)x", "'%(h)x'"),
        ("%(a).5s", "'%(a).5s'"),
        ("%(m)3d", "%(m)3d"),
        ("%(h)s\n", "line end"),
        ("\x1b[31m%(h)s", "control character"),
        ("\udcff", "control character"),
        ("", "empty"),
    ],
)
def test_a_bad_format_is_named(form: str, named: str) -> None:
    with pytest.raises(ValueError) as caught:
        compile_format(form)
    assert named in str(caught.value)


# --- what a client sends


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ~!'%s", "plain ~!'%s"),
        ('"', '\\"'),
        ("\\", "\\\\"),
        ("\n\r\t", "\\n\\r\\t"),
        ("\x00\x1b\x7f", "\\x00\\x1b\\x7f"),
        ("\x85\xe9", "\\x85\\xe9"),
        ("\u2028€", "\\u2028\\u20ac"),
        ("\udcff\U0001f600", "\\udcff\\U0001f600"),
    ],
)
def test_escapes(text: str, expected: str) -> None:
    assert escaped(text) == expected
    assert line('"%(a)s"', with_environ(HTTP_USER_AGENT=text)) == f'"{expected}"'


HARMFUL = '"\\\n\r\t\x00\x1b\x85\xff\u2028\ud800\udc00a%'
any_text = st.text(st.characters(codec=None)) | st.text(st.sampled_from(HARMFUL))
any_environ = st.dictionaries(
    st.sampled_from([*ENVIRON, "HTTP_AUTHORIZATION", "graceserve.request_line"]), any_text | st.integers() | st.none()
)
any_entry = st.builds(
    Entry,
    any_environ,
    any_text,
    st.lists(st.tuples(st.sampled_from(["x-a", "X-B"]), any_text)),
    st.integers(0),
    st.floats(0, 1e9),
    st.floats(0, 1e10),
    st.integers(1, 1 << 22),
)
EVERY_ATOM = "".join(f'"%({name})s" ' for name in [*"hlutrmUqHsBbfaTMDLp", "{x-a}o", "{x-request-id}i", "{path_info}e"])


@given(any_entry)
def test_whatever_comes_a_line_is_one_line_and_its_quotes_are_the_format_s(entry: Entry) -> None:
    made = compile_format(EVERY_ATOM)(entry)
    assert made.isascii() and made.isprintable()
    assert made.replace("\\\\", "").replace('\\"', "").count('"') == EVERY_ATOM.count('"')


@given(any_text)
def test_an_escaped_value_can_be_read_back(text: str) -> None:
    made = line("%(a)s", with_environ(HTTP_USER_AGENT=text))
    assert made.encode("ascii").decode("unicode_escape") == text


@given(any_entry, st.sampled_from([None, 0, 3]))
def test_json_is_json_whatever_comes(entry: Entry, cut: int | None) -> None:
    made = compile_format("json")(entry, cut)
    assert made.isascii() and made.isprintable()
    json.dumps(json.loads(made), ensure_ascii=False).encode("utf-8")  # no lone surrogate is in it


@given(any_entry, st.integers(100, 2000), st.sampled_from(["json", DEFAULT, EVERY_ATOM]))
def test_a_long_line_is_shortened(entry: Entry, length: int, form: str) -> None:
    environ = {key: value * length if isinstance(value, str) else value for key, value in entry.environ.items()}
    made = shortened(compile_format(form), replace(entry, environ=environ), 4096)
    assert len(made) <= 4096
    if form == "json":
        json.loads(made)


# --- JSON


def test_json() -> None:
    row = json.loads(line("json"))
    assert row == {
        "time": "2000-10-10T20:55:36.250Z", "remote_addr": "203.0.113.7", "method": "POST", "path": "/shop/café",
        "query": "page=3", "protocol": "HTTP/1.1", "status": 404, "body_bytes": 5123, "duration_ms": 1234.567,
        "user_agent": "curl/8.5", "referer": "https://example.org/", "host": "shop.example.org", "request_id": "4bf9",
        "generation": 7, "pid": 4711,
    }  # fmt: skip
    plain = json.loads(line("json", with_environ(PATH_INFO="/")))  # nothing to escape: another way through the code
    assert plain == {**row, "path": "/"} and list(plain) == list(row)


def test_json_of_a_request_that_was_refused() -> None:
    row = json.loads(line("json", REFUSED))
    assert row["request_line"] == "GET / HTTP/9" and row["status"] == 505 and row["remote_addr"] == "203.0.113.7"
    assert {key for key, value in row.items() if value is None} == {
        "method", "path", "query", "protocol", "user_agent", "referer", "host", "generation"
    }  # fmt: skip
    assert "request_id" not in row


@pytest.mark.parametrize(
    ("value", "expected"),
    [("caf\xc3\xa9", "café"), ("\xff/\\", "\xff/\\"), ("\u20ac", "€"), ("\udcff", "\\udcff"), ("", ""), (None, None),
     (3, "3"), ("null", "null"), ("\x1b\x7f\u2028", "\x1b\x7f\u2028")],
)  # fmt: skip
def test_json_values(value: object, expected: str | None) -> None:
    row = json.loads(line("json", with_environ(HTTP_USER_AGENT=value, HTTP_X_REQUEST_ID="x", REMOTE_ADDR="")))
    assert row["user_agent"] == expected
    assert row["remote_addr"] is None


@pytest.mark.parametrize("status", ["", "0", "099", "²00 x", "abc", '1"2'])
def test_a_status_that_is_no_number_is_null(status: str) -> None:
    assert json.loads(line("json", status_line=status))["status"] is None


def test_a_time_without_sense_is_an_error_not_bad_json() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises((ValueError, OverflowError)):
            line("json", duration_s=bad)
