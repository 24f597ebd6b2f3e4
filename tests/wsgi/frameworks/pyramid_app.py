"""Pyramid. Its 500 is the server's: what a view raises goes through to the server."""

import os
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # webob imports `cgi` on Pythons that still have it
    warnings.simplefilter("ignore", UserWarning)  # Pyramid imports `pkg_resources`, which newer setuptools complain of
    from pyramid.config import Configurator
    from pyramid.httpexceptions import HTTPFound
    from pyramid.request import Request
    from pyramid.response import FileResponse, Response

from tests.wsgi.frameworks import FILE, digest, files, pieces, watched


def page(request: Request) -> dict[str, Any]:
    return {"name": request.matchdict["name"], "q": request.params["q"], "scheme": request.scheme,
            "host": request.host, "url": request.path_url}  # fmt: skip


def redirect(request: Request) -> Response:
    return HTTPFound("/page/there")


def form(request: Request) -> dict[str, Any]:
    return {"name": request.POST["name"], **digest(request.POST["file"].file.read())}


def raw(request: Request) -> dict[str, Any]:
    return digest(request.body)


def file(request: Request) -> Response:
    response = FileResponse(os.path.join(files(), FILE), request=request, content_type="application/octet-stream")
    response.conditional_response = True  # ranges, and 304
    return response


def stream(request: Request) -> Response:
    return Response(app_iter=pieces(request.params.get("gate", "")))


def error(request: Request) -> Response:
    raise RuntimeError("on purpose")


def cookies(request: Request) -> dict[str, Any]:
    request.response.set_cookie("a", "1")
    request.response.set_cookie("b", "2", httponly=True)
    return dict(request.cookies)


with Configurator() as config:
    for view, method, renderer in (
        (page, "GET", "json"), (redirect, "GET", None), (form, "POST", "json"), (raw, "POST", "json"),
        (file, "GET", None), (stream, "GET", None), (error, "GET", None), (cookies, "GET", "json"),
    ):  # fmt: skip
        name = view.__name__
        config.add_route(name, "/page/{name}" if name == "page" else f"/{name}", request_method=method)
        config.add_view(view, route_name=name, renderer=renderer)
    app = watched(config.make_wsgi_app())
