"""Say in each response which release made it."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse


def name_release(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Adds X-Release."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["X-Release"] = settings.RELEASE
        return response

    return respond
