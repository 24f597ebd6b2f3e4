"""`hello` that takes $IMPORT_S seconds to import: it sleeps, or works if $IMPORT_BURNS is set."""

import os
import time

BODY = b"Hello, world"

if os.environ.get("IMPORT_BURNS"):
    _end = time.process_time() + float(os.environ["IMPORT_S"])
    while time.process_time() < _end:
        pass
else:
    time.sleep(float(os.environ["IMPORT_S"]))


def app(environ, start_response):
    """Always the same."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12")])
    return [BODY]
