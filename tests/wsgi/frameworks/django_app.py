"""Django. Of its own: a database, an asynchronous view, a form with a CSRF token, and how many requests it finished:
its signal for that, by which it puts database connections back, hangs on the server's calling close()."""

import os
from typing import Any

import django
from django.conf import settings
from django.core.signals import request_finished
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import redirect as redirected
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from tests.wsgi.frameworks import FILE, digest, files, pieces, watched

finished: list[None] = []


@csrf_exempt  # so that a POST is refused for its method
@require_safe
def page(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse({"name": name, "q": request.GET["q"], "scheme": request.scheme, "host": request.get_host(),
                         "url": request.build_absolute_uri(request.path)})  # fmt: skip


def redirect(request: HttpRequest) -> HttpResponse:
    return redirected("/page/there")


@csrf_exempt
@require_POST
def form(request: HttpRequest) -> HttpResponse:
    upload: Any = request.FILES["file"]
    return JsonResponse({"name": request.POST["name"], **digest(upload.read())})


@csrf_exempt
@require_POST
def raw(request: HttpRequest) -> HttpResponse:
    return JsonResponse(digest(request.body))


@require_safe
def file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(os.path.join(files(), FILE), "rb"))  # the response closes it


@require_safe
def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(pieces(request.GET.get("gate", "")))


def error(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("on purpose")


def cookies(request: HttpRequest) -> HttpResponse:
    response = JsonResponse(request.COOKIES)
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


async def asynchronous(request: HttpRequest) -> HttpResponse:
    return HttpResponse("asynchronous")


def database(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:  # refused where a loop runs in this thread (SynchronousOnlyOperation)
        cursor.execute("CREATE TABLE IF NOT EXISTS seen (n INTEGER)")
        cursor.execute("INSERT INTO seen VALUES (1)")
        cursor.execute("SELECT COUNT(*) FROM seen")
        return JsonResponse({"rows": cursor.fetchone()[0]})


def protected(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return JsonResponse({"name": request.POST["name"]})
    return HttpResponse(get_token(request))


def finished_so_far(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"finished": len(finished)})


urlpatterns = [
    path("page/<name>", page), path("redirect", redirect), path("form", form), path("raw", raw), path("file", file),
    path("stream", stream), path("error", error), path("cookies", cookies),
    path("async", asynchronous), path("db", database), path("csrf", protected), path("finished", finished_so_far),
]  # fmt: skip
settings.configure(
    SECRET_KEY="test",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(files(), f"{os.getpid()}.db")}},
    DATA_UPLOAD_MAX_MEMORY_SIZE=1 << 24,
)
django.setup()
request_finished.connect(lambda **_: finished.append(None), weak=False)
app = watched(get_wsgi_application())
