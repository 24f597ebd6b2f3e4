"""Flask. Of its own: /session, a signed cookie that is written behind the view."""

import os
from typing import Any

import flask
from flask import request
from werkzeug.urls import iri_to_uri

from tests.wsgi.frameworks import FILE, digest, files, pieces, watched

site = flask.Flask(__name__)
site.secret_key = "test"


@site.get("/page/<name>")
def page(name: str) -> Any:
    return {"name": name, "q": request.args["q"], "scheme": request.scheme, "host": request.host,
            "url": iri_to_uri(request.base_url)}  # fmt: skip


@site.get("/redirect")
def redirect() -> Any:
    return flask.redirect("/page/there")


@site.post("/form")
def form() -> Any:
    return {"name": request.form["name"], **digest(request.files["file"].read())}


@site.post("/raw")
def raw() -> Any:
    return digest(request.get_data())


@site.get("/file")
def file() -> Any:
    return flask.send_file(os.path.join(files(), FILE))


@site.get("/stream")
def stream() -> Any:
    return flask.Response(pieces(request.args.get("gate", "")))


@site.get("/error")
def error() -> Any:
    raise RuntimeError("on purpose")


@site.get("/cookies")
def cookies() -> Any:
    response = flask.jsonify(dict(request.cookies))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


@site.get("/session")
def session() -> Any:
    flask.session["visits"] = flask.session.get("visits", 0) + 1
    return {"visits": flask.session["visits"]}


app = watched(site)
