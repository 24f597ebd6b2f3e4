"""What is asked: the URL on the command line. Pure; used by `graceserve torture`."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from graceserve.errors import OperatorError

_FORMS = "give http://HOST:PORT/PATH, unix:/run/app.sock:/PATH or http+unix://%2Frun%2Fapp.sock/PATH"
_VISIBLE = re.compile(r"[!-~]+")  # RFC 3986: everything else is percent-encoded


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect (`socket_path`, or `host` and `port`) and what to ask for there."""

    host: str = ""
    port: int = 0
    socket_path: str = ""
    authority: str = "localhost"  # the Host field
    path: str = "/"  # with the query


def parse(url: str) -> Target:
    """`http://HOST:PORT/PATH`, `unix:SOCKET:/PATH` as nginx writes it, or `http+unix://`. Raises `OperatorError`."""
    if url.startswith(("unix:", "http://unix:")):
        return _nginx(url)
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError as error:
        raise _bad(url, f"{error}; {_FORMS}") from None
    match split.scheme:
        case "http" if split.hostname:
            return _http(url, split, split.hostname, 80 if port is None else port)
        case "http+unix" if split.netloc:
            return _unix(url, unquote(split.netloc), _path(url, split))
        case "https":
            fix = "https is not supported; give the server's own plain HTTP address, behind what ends TLS"
            raise _bad(url, fix)
    raise _bad(url, _FORMS)


def path_of(text: str, flag: str) -> str:
    """A path with an optional query, as it goes into a request line. Raises `OperatorError`."""
    if not text.startswith("/") or not _VISIBLE.fullmatch(text) or "#" in text:
        raise OperatorError(f"{flag} {text!r}: give a percent-encoded path, as in /healthz?full=1")
    return text


def _http(url: str, split: SplitResult, host: str, port: int) -> Target:
    if split.username is not None:
        raise _bad(url, "no user in it, please; give --header 'Authorization: ...'")
    if not _VISIBLE.fullmatch(host) or port == 0:
        raise _bad(url, f"there is no such host or port; {_FORMS}")
    return Target(host=host, port=port, authority=split.netloc, path=_path(url, split))


def _nginx(url: str) -> Target:
    """`unix:/run/app.sock`, a path behind a second colon."""
    socket_path, _, path = url.removeprefix("http://").removeprefix("unix:").partition(":")
    return _unix(url, socket_path.removeprefix("//"), path_of(path or "/", url))


def _unix(url: str, socket_path: str, path: str) -> Target:
    if not socket_path or "\0" in socket_path:
        raise _bad(url, f"a Unix socket needs a path; {_FORMS}")
    return Target(socket_path=socket_path, path=path)


def _path(url: str, split: SplitResult) -> str:
    return path_of((split.path or "/") + (f"?{split.query}" if split.query else ""), url)


def _bad(url: str, fix: str) -> OperatorError:
    return OperatorError(f"torture {url}: {fix}")
