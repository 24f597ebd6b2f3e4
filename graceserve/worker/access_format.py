"""What a line of the access log says: gunicorn's atoms, or JSON. Pure but for the local time zone; used in a worker.

A format is compiled once, at start-up, into the atoms that it uses. A line is put together from their values first and
then looked at as a whole: almost always it is harmless. Only if not, its values are escaped one by one, as Apache does
it: what came from a client must not end the line, leave its quotes or steer the terminal of whoever reads it. So a line
is ASCII, but for what the format itself says.
"""

import binascii
import re
from codecs import unicode_escape_encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Protocol

JSON = "json"  # instead of a format
REQUEST_LINE = "graceserve.request_line"  # in the environ of a request that was refused
_CUTS = (1024, 256, 48)  # for the values of a line that is too long; an address (45) and a time (28) stay whole
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in no locale


@dataclass(slots=True)  # not frozen: one is made a request, and freezing costs more than the rest of it
class Entry:
    """A request that was answered, or refused: then `environ` is what `refused` makes."""

    environ: dict[str, Any]
    status_line: str  # "200 OK"; empty if there was no answer
    headers: list[tuple[str, str]]  # of the response
    body_bytes: int  # of the response, as far as they were sent
    duration_s: float
    ended: float  # Unix time
    pid: int


class Line(Protocol):
    """The line of an entry, without its end. Of values longer than `cut` characters only the beginning."""

    def __call__(self, entry: Entry, cut: int | None = None, /) -> str:
        """Raises what the `__str__` of an app's object raises, if the format asks for it."""


_Atom = Callable[[Entry], str]


def refused(address: str, line: bytes = b"") -> dict[str, Any]:
    """The environ of a request that never became one: who sent it, and its first line as far as it was read."""
    return {"REMOTE_ADDR": address, REQUEST_LINE: line.rstrip(b"\r\n").decode("latin-1")}


def compile_format(text: str) -> Line:
    """`text` is `json`, or has atoms like `%(h)s` in it. Raises `ValueError` that says what is wrong with it."""
    return _json_line if text == JSON else _text_line(*_parsed(text))


def shortened(line: Line, entry: Entry, chars_max: int) -> str:
    """`line(entry)` in no more characters: its values are cut. JSON stays JSON from 4 kB on."""
    made = ""
    for cut in _CUTS:
        made = line(entry, cut)
        if len(made) <= chars_max:
            return made
    return made[:chars_max]


def _clipped(text: str, cut: int | None) -> str:
    return text if cut is None or len(text) <= cut else text[:cut] + "..."


# --- a format

_TOKEN = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^()]*)\)(?P<pad>-?0?\d{0,3})(?P<kind>[sd]))?")
_NAMED = re.compile(r"\{([^{}]+)\}([ioe])")


def _parsed(text: str) -> tuple[list[str], list[_Atom]]:
    """The texts around the atoms, which are one more than the atoms."""
    if not text or not text.replace("\t", " ").isprintable():
        raise ValueError(f"{text!r}: a format is not empty, and has no line end or other control character in it")
    texts, atoms, at = [""], list[_Atom](), 0
    for token in _TOKEN.finditer(text):
        texts[-1] += text[at : token.start()]
        at = token.end()
        if token["percent"]:
            texts[-1] += "%"
        elif token["name"] is None:
            raise ValueError(f"{text[token.start() :][:20]!r}: an atom looks like `%(h)s`, a percent sign is `%%`")
        else:
            atoms.append(_padded(token["name"], token["pad"], token["kind"]))
            texts.append("")
    texts[-1] += text[at:]
    return texts, atoms


def _padded(name: str, pad: str, kind: str) -> _Atom:
    atom = _atom(name)
    if kind == "d":
        if name not in _NUMBERS:
            raise ValueError(f"%({name}){pad}d: it is not always a number, write s instead of d")
        return lambda entry: f"%{pad}d" % int(atom(entry))
    return (lambda entry: f"%{pad}s" % atom(entry)) if pad else atom


def _atom(name: str) -> _Atom:
    if name in _ATOMS:
        return _ATOMS[name]
    match = _NAMED.fullmatch(name)
    if match is None:
        raise ValueError(f"%({name})s: no such atom, there are {' '.join(_ATOMS)} and {{name}}i {{name}}o {{name}}e")
    makers = {"i": _request_header, "o": _response_header, "e": _variable}
    return makers[match[2]](match[1])


def _text_line(texts: list[str], atoms: list[_Atom]) -> Line:
    frame = [piece for text in texts for piece in (text, "")][:-1]
    own = _harmful_in("".join(texts))  # the format's own quotes, mostly

    def line(entry: Entry, cut: int | None = None) -> str:
        values = [atom(entry) for atom in atoms]
        parts = frame.copy()
        if cut is None:
            parts[1::2] = values
            try:
                made = "".join(parts)
                if _harmful_in(made) == own:  # so there is nothing harmful in the values
                    return made
            except TypeError:  # no str: the app has put something else into its environ
                pass
        parts[1::2] = [escaped(_clipped(str(value), cut)) for value in values]
        return "".join(parts)

    return line


# --- escapes

_HARMLESS = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')


def escaped(text: str) -> str:
    """In ASCII, harmless between double quotes: a byte becomes `\\xNN`, another character `\\uNNNN`. Quick, as a client
    may send kilobytes of them while the loop waits."""
    return unicode_escape_encode(text)[0].decode("ascii").replace('"', '\\"')


def _harmful_in(text: str) -> bytes:
    """Its harmful bytes. Half the cost of any regular expression."""
    return text.encode("utf-8", "surrogatepass").translate(None, _HARMLESS)


# --- atoms


def _request_header(name: str) -> _Atom:
    key = name.upper().replace("-", "_")
    return _value(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key)


def _response_header(name: str) -> _Atom:
    wanted = name.lower()

    def value(entry: Entry) -> str:
        values = [value for name, value in entry.headers if name.lower() == wanted]
        return ", ".join(values) if values else "-"

    return value


def _variable(name: str) -> _Atom:
    """REMOTE_ADDR may be written remote_addr, as gunicorn wants it; a name in mixed case as it is."""
    names = tuple(dict.fromkeys((name, name.upper(), name.lower())))

    def value(entry: Entry) -> str:
        for each in names:
            if each in entry.environ:
                return str(entry.environ[each])
        return "-"

    return value


def _value(key: str) -> _Atom:
    return lambda entry: entry.environ.get(key, "-")


def _user(entry: Entry) -> str:
    """Of Basic auth (RFC 7617 2)."""
    authorization = entry.environ.get("HTTP_AUTHORIZATION")
    if not authorization:
        return "-"
    scheme, _, credentials = str(authorization).partition(" ")
    if scheme.lower() != "basic":
        return "-"
    try:
        name, colon, _ = binascii.a2b_base64(credentials).partition(b":")
    except ValueError:
        return "-"
    if not (name and colon):  # without a colon all of it may be secret
        return "-"
    return name.decode("latin-1").replace(" ", "%20")  # `u` stands without quotes: a space would forge a field


def _request_line(entry: Entry) -> str:
    environ = entry.environ
    try:
        return f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}"
    except KeyError:
        return str(environ.get(REQUEST_LINE) or "-")


def _path(environ: dict[str, Any]) -> str:
    """All of it, also where a middleware has moved its beginning to SCRIPT_NAME."""
    return f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"


def _microseconds(entry: Entry) -> int:
    return int(entry.duration_s * 1e6 + 0.5)


@lru_cache(2)
def _local_time(now_s: int) -> str:
    local = datetime.fromtimestamp(now_s, UTC).astimezone()
    return f"[{local:%d}/{_MONTHS[local.month - 1]}/{local:%Y:%H:%M:%S %z}]"


_ATOMS: dict[str, _Atom] = {
    "h": lambda entry: entry.environ.get("REMOTE_ADDR") or "-",  # empty for a Unix socket
    "l": lambda entry: "-",
    "u": _user,
    "t": lambda entry: _local_time(int(entry.ended)),
    "r": _request_line,
    "m": _value("REQUEST_METHOD"),
    "U": lambda entry: _path(entry.environ) or "-",
    "q": _value("QUERY_STRING"),
    "H": _value("SERVER_PROTOCOL"),
    "s": lambda entry: entry.status_line[:3] or "-",
    "B": lambda entry: str(entry.body_bytes),
    "b": lambda entry: str(entry.body_bytes or "-"),
    "f": _value("HTTP_REFERER"),
    "a": _value("HTTP_USER_AGENT"),
    "T": lambda entry: str(_microseconds(entry) // 1_000_000),
    "M": lambda entry: str(_microseconds(entry) // 1000),
    "D": lambda entry: str(_microseconds(entry)),
    "L": lambda entry: f"{_microseconds(entry) / 1e6:.6f}",
    "p": lambda entry: f"<{entry.pid}>",
}
_NUMBERS = "BTMD"


# --- JSON

_STRINGS = (
    "REQUEST_METHOD", "QUERY_STRING", "SERVER_PROTOCOL", "HTTP_USER_AGENT", "HTTP_REFERER", "HTTP_HOST",
    "HTTP_X_REQUEST_ID", REQUEST_LINE,
)  # fmt: skip


def _json_line(entry: Entry, cut: int | None = None) -> str:
    environ = entry.environ
    get = environ.get
    values = [get("REMOTE_ADDR") or None, _path(environ) or None, *[get(key) for key in _STRINGS]]
    address, path, method, query, protocol, agent, referer, host, request_id, line = _json_values(values, cut)
    more = "" if request_id == "null" else f', "request_id": {request_id}'
    if line != "null":
        more += f', "request_line": {line}'
    second, ms = divmod(int(entry.ended * 1000), 1000)
    generation = get("graceserve.generation")
    return (
        f'{{"time": "{_utc(second)}.{ms:03d}Z", "remote_addr": {address}, "method": {method}, "path": {path}, '
        f'"query": {query}, "protocol": {protocol}, "status": {_status(entry.status_line)}, '
        f'"body_bytes": {entry.body_bytes}, "duration_ms": {_microseconds(entry) / 1000}, '
        f'"user_agent": {agent}, "referer": {referer}, "host": {host}{more}, '
        f'"generation": {generation if type(generation) is int else "null"}, "pid": {entry.pid}}}'
    )


def _json_values(values: list[Any], cut: int | None) -> list[str]:
    """As with atoms, a look at all of them together mostly saves the work on each."""
    if cut is None:
        try:
            if not _harmful_in("".join(filter(None, values))):
                return ["null" if value is None else f'"{value}"' for value in values]
        except TypeError:  # no str
            pass
    return ["null" if value is None else _json_string(_clipped(str(value), cut)) for value in values]


def _json_string(text: str) -> str:
    """Of WSGI's strings, which are bytes, the text if they are UTF-8. Else each byte stays a character."""
    if text.isascii():
        return quoted(text)
    try:
        return quoted(text.encode("latin-1").decode())
    except UnicodeDecodeError:
        return quoted(text)
    except UnicodeEncodeError:  # not of WSGI; halves of pairs look as in Python: they are JSON, but not every reader's
        return quoted(text.encode("utf-8", "backslashreplace").decode())


@lru_cache(64)
def _status(line: str) -> str:
    code = line[:3]
    return code if code.isascii() and code.isdecimal() and code[0] != "0" else "null"


@lru_cache(2)
def _utc(now_s: int) -> str:
    return f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%dT%H:%M:%S}"
