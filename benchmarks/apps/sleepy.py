"""`hello`, and `/sleep`, which takes 0.3 s and no CPU."""

import time

BODY = b"Hello, world"
SLEEP_S = 0.3


def app(environ, start_response):
    """By path."""
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(SLEEP_S)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12")])
    return [BODY]
