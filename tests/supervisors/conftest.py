"""The fixtures of the process tests."""

from tests.process.conftest import boot, nursery, room, serve, site, stock, wheel

__all__ = ["boot", "nursery", "room", "serve", "site", "stock", "wheel"]
