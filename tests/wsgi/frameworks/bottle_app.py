"""Bottle."""

from collections.abc import Iterator
from typing import Any

import bottle
from bottle import request, response

from tests.wsgi.frameworks import FILE, digest, files, pieces, watched

site = bottle.Bottle()


@site.get("/page/<name>")
def page(name: str) -> dict[str, Any]:
    parts = request.urlparts
    return {"name": name, "q": request.query.getunicode("q"), "scheme": parts.scheme, "host": parts.netloc,
            "url": request.url.partition("?")[0]}  # fmt: skip


@site.get("/redirect")
def redirect() -> None:
    bottle.redirect("/page/there", 302)


@site.post("/form")
def form() -> dict[str, Any]:
    return {"name": request.forms.getunicode("name"), **digest(request.files["file"].file.read())}


@site.post("/raw")
def raw() -> dict[str, Any]:
    return digest(request.body.read())


@site.get("/file")
def file() -> Any:
    return bottle.static_file(FILE, root=files(), mimetype="application/octet-stream")


@site.get("/stream")
def stream() -> Iterator[bytes]:
    yield from pieces(request.query.gate)


@site.get("/error")
def error() -> None:
    raise RuntimeError("on purpose")


@site.get("/cookies")
def cookies() -> dict[str, Any]:
    response.set_cookie("a", "1", path="/")
    response.set_cookie("b", "2", path="/", httponly=True)
    return dict(request.cookies)


app = watched(site)
