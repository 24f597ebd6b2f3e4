"""Five frameworks in a real worker, inline and with threads: one table of requests, answered the same by all."""

import http.client
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from tests.http.harness import eventually
from tests.wsgi.frameworks import FILE, FILE_BYTES, FILE_WRAPPER_CALLED, PIECES, digest
from tests.wsgi.serving import Crew, Served

FRAMEWORKS = ("bottle", "django", "falcon", "flask", "pyramid")
WITH_RANGES = ("bottle", "falcon", "flask", "pyramid")  # Django's FileResponse has none

CONTENT = random.Random(3).randbytes(FILE_BYTES)
SMALL = bytes(range(256))
LARGE = CONTENT[:1_500_000]  # more than the worker keeps in memory
MOUNT = "/mounted"  # what is below it is the apps' too, and their URLs must say so
BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}


def multipart(file: bytes) -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nM\xc3\xa4x\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + file + b"\r\n--b--\r\n"
    )


# --- a client from elsewhere: http.client reads responses in its own way


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Browser:
    """One kept-alive connection."""

    def __init__(self, served: Served) -> None:
        host, port = served.at.listener.getsockname()
        self.connection = http.client.HTTPConnection(host, port, timeout=15)
        self.netloc = f"{host}:{port}"

    def __enter__(self) -> "Browser":
        self.connection.connect()
        self.connection.auto_open = 0  # a connection that the server closes is not replaced behind the test's back
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`body`: bytes, or an iterator of them, which goes out in chunks."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named, encode_chunked=not isinstance(body, bytes | None))
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read())


# --- the table


@dataclass(frozen=True)
class Case:
    """A request, and what must be true of its answer where that is named."""

    method: str
    path: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    chunked: bool = False
    json: dict[str, Any] | None = None
    says: bytes | None = None
    has: dict[str, str] = field(default_factory=dict)
    logs: str = ""
    only: tuple[str, ...] = FRAMEWORKS

    @property
    def sent(self) -> Any:
        """The body as it goes out: chunks of uneven sizes."""
        if not self.chunked:
            return self.body
        assert self.body is not None
        body, cuts = self.body, (0, 1, 7, 60_000, 60_001, 1 << 30)
        return iter([body[at:end] for at, end in pairwise(cuts) if body[at:end]])


def page(path: str, name: str, q: str, **headers: str) -> Case:
    host = headers.get("Host", "shop.example")
    scheme = headers.get("X-Forwarded-Proto", "http")
    told = {"name": name, "q": q, "scheme": scheme, "host": host, "url": f"{scheme}://{host}{path.partition('?')[0]}"}
    return Case("GET", path, headers={"Host": host, **headers}, json=told)


def form(file: bytes, *, chunked: bool = False) -> Case:
    told = {"name": "Mäx", **digest(file)}
    return Case("POST", "/form", headers=BOUNDARY, body=multipart(file), chunked=chunked, json=told)


def raw(body: bytes, *, chunked: bool = False) -> Case:
    return Case("POST", "/raw", body=body, chunked=chunked, json=digest(body))


def ranged(wanted: str, says: bytes | None, **has: str) -> Case:
    named = {name.replace("_", "-"): value for name, value in has.items()}
    status = 416 if says is None else 206
    return Case("GET", "/file", status, {"Range": f"bytes={wanted}"}, says=says, has=named, only=WITH_RANGES)


CASES = {
    "page": page("/page/me?q=you", "me", "you"),
    "page, not ASCII": page("/page/M%C3%A4x%20%E2%82%AC?q=%C3%A4%26%3D+%E2%82%AC", "Mäx €", "ä&= €"),
    "page, at a port": page("/page/me?q=1", "me", "1", Host="shop.example:81"),
    "page, over HTTPS in front": page("/page/me?q=1", "me", "1", **{"X-Forwarded-Proto": "https"}),
    "page, below a prefix": page(f"{MOUNT}/page/me?q=1", "me", "1"),
    "page, HEAD": Case("HEAD", "/page/me?q=1", says=b""),
    "form": form(SMALL),
    "form, chunked": form(SMALL, chunked=True),
    "form, large": form(LARGE),
    "form, large and chunked": form(LARGE, chunked=True),
    "raw": raw(SMALL),
    "raw, nothing": raw(b""),
    "raw, chunked": raw(SMALL, chunked=True),
    "raw, chunks of nothing": raw(b"", chunked=True),
    "raw, large": raw(LARGE),
    "raw, large and chunked": raw(LARGE, chunked=True),
    "file": Case("GET", "/file", says=CONTENT, has={"Content-Length": str(FILE_BYTES)}, logs=FILE_WRAPPER_CALLED),
    "file, HEAD": Case("HEAD", "/file", says=b"", has={"Content-Length": str(FILE_BYTES)}),
    "file, a range": ranged(
        "1000-499999", CONTENT[1000:500_000], Content_Range=f"bytes 1000-499999/{FILE_BYTES}", Content_Length="499000"
    ),
    "file, its end": ranged("-5", CONTENT[-5:], Content_Length="5"),
    "file, from its middle": ranged("1500000-", CONTENT[1_500_000:], Content_Length="1500000"),
    "file, out of range": ranged(f"{FILE_BYTES}-", None),
    "file, whole anyway": Case("GET", "/file", headers={"Range": "bytes=5-9"}, says=CONTENT, only=("django",)),
    "stream": Case("GET", "/stream", says=b"".join(PIECES), has={"Transfer-Encoding": "chunked"}),
    "stream, HEAD": Case("HEAD", "/stream", says=b""),
    "no such page": Case("GET", "/nowhere", 404),
    "no such page, below a prefix": Case("GET", f"{MOUNT}/nowhere", 404),
    "no such page, HEAD": Case("HEAD", "/nowhere", 404, says=b""),
    "no such page, with a body": Case("POST", "/nowhere", 404, body=LARGE),
    "no such method": Case("POST", "/page/me", 405, body=SMALL, only=("bottle", "django", "falcon", "flask")),
    "an error": Case("GET", "/error", 500),
    "cookies": Case("GET", "/cookies", headers={"Cookie": "a=1; c=x"}, json={"a": "1", "c": "x"}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("files")
    (directory / FILE).write_bytes(CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_FILES", str(directory))
        patch.setenv("SCRIPT_NAME", MOUNT)
        yield directory


def serve(crew: Crew, framework: str, mode: str) -> Served:
    warmup = ("/db",) if framework == "django" else ()
    return crew.of(f"tests.wsgi.frameworks.{framework}_app:app", mode, warmup=warmup)


@pytest.fixture
def served(crew: Crew, framework: str, mode: str) -> Served:
    return serve(crew, framework, mode)


@pytest.fixture
def browser(served: Served) -> Iterator[Browser]:
    with Browser(served) as made:
        yield made


@pytest.mark.parametrize(
    ("framework", "case"),
    [pytest.param(f, case, id=f"{f}-{name}") for name, case in CASES.items() for f in case.only],
)
def test_all_answer_the_same(served: Served, browser: Browser, case: Case) -> None:
    served.news()
    answer = browser.ask(case.method, case.path, case.sent, **case.headers)
    assert answer.status == case.status, answer
    if case.json is not None:
        assert answer.json == case.json
    if case.says is not None:
        assert answer.body == case.says
    for name, value in case.has.items():
        assert answer.headers[name] == value
    assert case.logs in served.news()
    after = browser.ask("GET", "/page/after?q=1")
    assert after.json["name"] == "after", "the connection is in order"


# --- what takes more than one request


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_redirect_can_be_followed(browser: Browser) -> None:
    answer = browser.ask("GET", "/redirect")
    target = urljoin(f"http://{browser.netloc}/redirect", answer.headers["Location"])
    assert (answer.status, target) == (302, f"http://{browser.netloc}/page/there")


def test_each_cookie_has_a_line_of_its_own(browser: Browser) -> None:
    first = browser.ask("GET", "/cookies")
    lines = first.headers.get_all("Set-Cookie", [])
    assert [line.split(";")[0] for line in lines] == ["a=1", "b=2"] and first.json == {}


def test_a_stream_arrives_piece_by_piece(browser: Browser, tmp_path: Path) -> None:
    browser.connection.request("GET", f"/stream?gate={tmp_path}/open")
    response = browser.connection.getresponse()
    assert response.readline() == PIECES[0]
    (tmp_path / "open").touch()
    assert response.read() == PIECES[1]
    assert browser.ask("GET", "/page/after?q=1").status == 200


def test_what_has_not_changed_is_not_sent_again(browser: Browser, framework: str) -> None:
    path = "/file" if framework in WITH_RANGES else "/page/me?q=1"
    first = browser.ask("GET", path)
    asked, said = ("If-None-Match", "ETag") if "ETag" in first.headers else ("If-Modified-Since", "Last-Modified")
    again = browser.ask("GET", path, **{asked: first.headers[said]})
    assert (again.status, again.body, again.headers["Transfer-Encoding"]) == (304, b"", None)
    assert browser.ask("GET", path).body == first.body


def test_files_are_closed(served: Served, files: Path) -> None:
    """However the download ends."""
    asked: list[tuple[str, dict[str, str]]] = [("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-9"})]
    with Browser(served) as browser:
        for method, headers in asked:
            assert browser.ask(method, "/file", **headers).status in (200, 206)
    with Browser(served) as browser:
        browser.connection.request("GET", "/file")
        assert browser.connection.getresponse().read(1000) == CONTENT[:1000]
    eventually(lambda: not _open_in(served.worker.pid, files / FILE))


def _open_in(pid: int, path: Path) -> int:
    """How many descriptors of a process are this file."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(entry.readlink())
    return links.count(path)


# --- what only one of them can do


def test_flask_keeps_a_session(crew: Crew, mode: str) -> None:
    with Browser(serve(crew, "flask", mode)) as browser:
        first = browser.ask("GET", "/session")
        cookie = first.headers["Set-Cookie"].split(";")[0]
        second = browser.ask("GET", "/session", Cookie=cookie)
        assert (first.json, second.json) == ({"visits": 1}, {"visits": 2})


@pytest.fixture
def django(crew: Crew, mode: str) -> Iterator[Browser]:
    with Browser(serve(crew, "django", mode)) as browser:
        yield browser


def test_django_s_database(django: Browser) -> None:
    rows = [django.ask("GET", "/db").json["rows"] for _ in range(3)]
    assert rows == [2, 3, 4], "the first was the warm-up"


def test_django_s_async_view(django: Browser) -> None:
    assert django.ask("GET", "/async").body == b"asynchronous"


@pytest.mark.parametrize("chunked", [False, True])
def test_django_s_csrf_token(django: Browser, chunked: bool) -> None:
    page = django.ask("GET", "/csrf")
    body = b"name=me&csrfmiddlewaretoken=" + page.body
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": page.headers["Set-Cookie"].split(";")[0]}
    assert django.ask("POST", "/csrf", iter([body]) if chunked else body, **headers).json == {"name": "me"}
    assert django.ask("POST", "/csrf", body.replace(page.body, b"x"), **headers).status == 403


def test_django_finishes_each_request_once(django: Browser) -> None:
    """Its signal is sent by the close() of the response, also where a file's was wrapped."""
    asked = [("GET", "/page/me?q=1"), ("GET", "/file"), ("HEAD", "/file"), ("GET", "/stream"), ("HEAD", "/stream"),
             ("GET", "/error"), ("GET", "/nowhere")]  # fmt: skip
    before = django.ask("GET", "/finished").json["finished"]
    for method, path in asked:
        django.ask(method, path)
    assert django.ask("GET", "/finished").json["finished"] - before == len(asked) + 1, "the first /finished, too"
