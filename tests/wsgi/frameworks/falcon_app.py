"""Falcon. Files are its static route's."""

import falcon
from falcon import Request, Response

from tests.wsgi.frameworks import FILE, digest, files, pieces, watched


class Page:
    def on_get(self, request: Request, response: Response, name: str) -> None:
        response.media = {"name": name, "q": request.get_param("q"), "scheme": request.scheme, "host": request.netloc,
                          "url": request.prefix + falcon.uri.encode(request.path)}  # fmt: skip

    on_head = on_get


class Redirect:
    def on_get(self, request: Request, response: Response) -> None:
        raise falcon.HTTPFound("/page/there")


class Form:
    def on_post(self, request: Request, response: Response) -> None:
        parts: dict[str, bytes] = {part.name: part.stream.read() for part in request.get_media()}
        response.media = {"name": parts["name"].decode(), **digest(parts["file"])}


class Raw:
    def on_post(self, request: Request, response: Response) -> None:
        response.media = digest(request.bounded_stream.read())


class Stream:
    def on_get(self, request: Request, response: Response) -> None:
        response.stream = pieces(request.get_param("gate", default=""))

    on_head = on_get


class Error:
    def on_get(self, request: Request, response: Response) -> None:
        raise RuntimeError("on purpose")


class Cookies:
    def on_get(self, request: Request, response: Response) -> None:
        response.set_cookie("a", "1", secure=False)
        response.set_cookie("b", "2", secure=False)
        response.media = dict(request.cookies)


site = falcon.App()
for path, resource in {
    "/page/{name}": Page(), "/redirect": Redirect(), "/form": Form(), "/raw": Raw(), "/stream": Stream(),
    "/error": Error(), "/cookies": Cookies(),
}.items():  # fmt: skip
    site.add_route(path, resource)
site.add_static_route("/file", files(), fallback_filename=FILE)
app = watched(site)
