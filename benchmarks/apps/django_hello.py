"""The same as `hello`, in Django, with the middleware of a new project that needs no database."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

if not settings.configured:  # fastwsgi loads an app twice
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="not a secret",
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
    )


def hello(request: HttpRequest) -> HttpResponse:
    """Always the same."""
    return HttpResponse("Hello, world", content_type="text/plain")


urlpatterns = [path("", hello)]
app = get_wsgi_application()
