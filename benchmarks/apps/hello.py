"""The least that a WSGI app can do: 12 bytes."""

BODY = b"Hello, world"


def app(environ, start_response):
    """Always the same."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12")])
    return [BODY]
