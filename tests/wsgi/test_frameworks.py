"""Flask and Django in a real worker, inline and with threads."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.harness import Client, Stage, stage
from tests.wsgi import frameworks


@pytest.fixture(params=[1, 4], ids=["inline", "threads"])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def flask(threads: int) -> Iterator[Client]:
    with stage() as at, at.worker("tests.wsgi.frameworks:flask()", threads=threads) as worker:
        worker.accept()
        with at.connect() as client:
            yield client


@pytest.fixture
def django(threads: int) -> Iterator[Stage]:
    with stage() as at, at.worker("tests.wsgi.frameworks:django()", threads=threads, warmup=("/db",)) as worker:
        worker.accept()
        yield at


def post(client: Client, path: str, body: bytes, **headers: str) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    client.send(head.encode() + body)
    answer = client.response()
    assert answer.status == 200, answer
    return answer.body


def test_flask_pages(flask: Client) -> None:
    first = flask.get("/")
    assert json.loads(first.body) == {"visits": 1, "scheme": "http", "host": "test"}
    cookie = first.headers["set-cookie"].split(";")[0]
    second = flask.get("/", Cookie=cookie, X_Forwarded_Proto="https")
    assert json.loads(second.body) == {"visits": 2, "scheme": "https", "host": "test"}
    assert flask.get("/stream").body == b"01234"
    assert flask.get("/file").body == Path(frameworks.__file__).read_bytes()
    assert flask.get("/nowhere").status == 404
    assert flask.get("/broken").status == 500
    assert flask.get("/").status == 200


def test_flask_takes_a_large_upload(flask: Client) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nme\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + b"x" * 2_000_000
        + b"\r\n--b--\r\n"
    )
    told = post(flask, "/form", body, Content_Type="multipart/form-data; boundary=b")
    assert json.loads(told) == {"name": "me", "size": 2_000_000}


def test_django_database(django: Stage) -> None:
    with django.connect() as client:
        rows = [json.loads(client.get("/db").body)["rows"] for _ in range(3)]
        assert rows == [2, 3, 4]  # the first was the warm-up


def test_django_async_view(django: Stage) -> None:
    assert django.get("/async").body == b"asynchronous"


def test_django_form_with_csrf_also_chunked(django: Stage) -> None:
    with django.connect() as client:
        page = client.get("/form")
        token, cookie = page.body.decode(), page.headers["set-cookie"].split(";")[0]
        body = f"name=me&csrfmiddlewaretoken={token}".encode()
        urlencoded = {"Cookie": cookie, "Content_Type": "application/x-www-form-urlencoded"}
        told = post(client, "/form", body, **urlencoded)
        assert json.loads(told) == {"name": "me", "secure": False}
        client.send(
            b"POST /form HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\nCookie: " + cookie.encode() + b"\r\n"
            b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        )
        assert json.loads(client.response().body)["name"] == "me"


def test_django_stream_and_missing_page(django: Stage) -> None:
    with django.connect() as client:
        assert client.get("/stream").body == b"01234"
        assert client.get("/nowhere").status == 404
