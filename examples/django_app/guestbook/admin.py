"""Entries in Django's admin."""

from django.contrib import admin

from guestbook.models import Entry

admin.site.register(Entry)
