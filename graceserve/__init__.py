"""graceserve: a WSGI server in which a reload is a transaction."""

__version__ = "0.1.0"
