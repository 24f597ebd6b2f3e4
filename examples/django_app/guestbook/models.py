"""What is kept."""

from django.db import models


class Entry(models.Model):
    """Somebody was here."""

    name = models.CharField(max_length=50)
    text = models.CharField(max_length=500)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"
