"""The pages: the book with its form, a visit (writes and reads; a GET, to be easy to put under load), the release."""

import sys

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render

from guestbook.models import Entry


def book(request: HttpRequest) -> HttpResponse:
    """The last entries, and a form protected by Django's CSRF token."""
    if request.method == "POST":
        Entry.objects.create(name=request.POST["name"][:50], text=request.POST["text"][:500])
        return redirect("/")
    context = {
        "entries": Entry.objects.order_by("-id")[:10],
        "count": Entry.objects.count(),
        "release": settings.RELEASE,
    }
    return render(request, "guestbook/book.html", context)


def visit(request: HttpRequest) -> HttpResponse:
    """One more row."""
    Entry.objects.create(name="visitor", text="was here")
    return JsonResponse({"entries": Entry.objects.count(), "release": settings.RELEASE})


def version(request: HttpRequest) -> HttpResponse:
    """Which release, and which Python."""
    facts = {"release": settings.RELEASE, "python": sys.version.split()[0], "executable": sys.executable}
    return JsonResponse(facts)
