"""Flask and Django as people write them, small."""

import os
import tempfile
from typing import Any


def flask() -> Any:
    import flask

    app = flask.Flask(__name__)
    app.secret_key = "test"

    @app.get("/")
    def index() -> Any:
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        return {"visits": flask.session["visits"], "scheme": flask.request.scheme, "host": flask.request.host}

    @app.post("/form")
    def form() -> Any:
        upload = flask.request.files["file"]
        return {"name": flask.request.form["name"], "size": len(upload.read())}

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response(str(number) for number in range(5))

    @app.get("/file")
    def file() -> Any:
        return flask.send_file(__file__)

    @app.get("/broken")
    def broken() -> Any:
        raise RuntimeError("broken on purpose")

    return app


def django() -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.db import connection
    from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.middleware.csrf import get_token
    from django.urls import path

    async def asynchronous(request: HttpRequest) -> HttpResponse:
        return HttpResponse("asynchronous")

    def database(request: HttpRequest) -> HttpResponse:
        with connection.cursor() as cursor:  # refused where a loop runs in this thread (SynchronousOnlyOperation)
            cursor.execute("CREATE TABLE IF NOT EXISTS seen (n INTEGER)")
            cursor.execute("INSERT INTO seen VALUES (1)")
            cursor.execute("SELECT COUNT(*) FROM seen")
            return JsonResponse({"rows": cursor.fetchone()[0]})

    def form(request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            return JsonResponse({"name": request.POST["name"], "secure": request.is_secure()})
        return HttpResponse(get_token(request))

    def stream(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(str(number) for number in range(5))

    patterns = [path("async", asynchronous), path("db", database), path("form", form), path("stream", stream)]
    directory = tempfile.mkdtemp(prefix="graceserve-test-")
    settings.configure(
        SECRET_KEY="test",
        ROOT_URLCONF=type("urls", (), {"urlpatterns": patterns}),
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(directory, "db")}},
        SECURE_PROXY_SSL_HEADER=None,
    )
    django.setup()
    return get_wsgi_application()
