"""The smallest app: `graceserve --chdir examples hello:app`, then open http://127.0.0.1:8000/."""

from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Greets, and says which generation of the server answers."""
    body = f"Hello from generation {environ.get('graceserve.generation', '?')}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
