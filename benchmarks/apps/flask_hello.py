"""The same as `hello`, in Flask."""

from flask import Flask, Response

app = Flask(__name__)


@app.get("/")
def hello() -> Response:
    """Always the same."""
    return Response("Hello, world", mimetype="text/plain")
