"""The guest book's pages, and Django's admin."""

from django.contrib import admin
from django.urls import path
from guestbook import views

urlpatterns = [
    path("", views.book),
    path("visit", views.visit),
    path("version", views.version),
    path("admin/", admin.site.urls),
]
