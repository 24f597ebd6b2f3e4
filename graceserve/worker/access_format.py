"""What a line of the access log says: gunicorn's atoms, or JSON. Pure but for the local time zone; used in a worker.

A format is compiled once, at start-up, into the atoms that it uses. A line is put together from their values first and
then looked at as a whole: almost always it is harmless. Only if not, its values are escaped one by one, as Apache does
it: what came from a client must not end the line, leave its quotes or steer the terminal of whoever reads it. So a line
is ASCII, but for what the format itself says.
"""

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

JSON = "json"  # instead of a format
REQUEST_LINE = "graceserve.request_line"  # in an entry's environ: what a request that was refused began with
_ENDS = (1024, 256, 64, 16, 0)  # what values are cut to when a line is too long
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in no locale's language


@dataclass(slots=True)  # not frozen: one is made a request, and freezing costs more than the rest of it
class Entry:
    """A request that was answered. Of one that was refused, `environ` is what `refused` makes."""

    environ: dict[str, Any]
    status_line: str  # "200 OK"; empty if there was no answer
    headers: list[tuple[str, str]]  # of the response
    body_bytes: int  # of the response, as far as it was sent
    duration_s: float
    ended: float  # Unix time
    pid: int


Line = Callable[[Entry], str]  # without its end
_Atom = Callable[[Entry], str]


def refused(address: str, line: bytes = b"") -> dict[str, Any]:
    """The environ of a request that never became one: who sent it, and its first line as far as it was read."""
    return {"REMOTE_ADDR": address, REQUEST_LINE: line.rstrip(b"\r\n").decode("latin-1")}


def compile_format(text: str) -> Line:
    """`text` is `json`, or has atoms as `%(h)s` in it. Raises `ValueError` that names what is wrong."""
    return _json_line if text == JSON else _text_line(*_parsed(text))


def shortened(line: Line, entry: Entry, chars_max: int) -> str:
    """`line(entry)`, with values cut so that it is not longer. Only the format itself can make it longer still."""
    made = line(entry)
    for end in _ENDS:
        if len(made) <= chars_max:
            break
        made = line(_cut(entry, end))
    return made


def _cut(entry: Entry, end: int) -> Entry:
    def short(value: Any) -> Any:
        text = value if isinstance(value, str | int) else str(value)
        return text[:end] + "..." if isinstance(text, str) and len(text) > end else text

    environ = {key: short(value) for key, value in entry.environ.items()}
    return replace(entry, environ=environ, headers=[(name, short(value)) for name, value in entry.headers])


# --- a line of atoms

_TOKEN = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^()]*)\)(?P<pad>-?0?\d{0,3})(?P<kind>[sd]))?")


def _parsed(text: str) -> tuple[list[str], list[_Atom]]:
    """The texts around the atoms, one more than there are atoms."""
    if not text or not text.replace("\t", " ").isprintable():
        raise ValueError(f"{text!r}: a line is not empty, and has no line end or other control character in it")
    texts, atoms, at = [""], [], 0
    for token in _TOKEN.finditer(text):
        texts[-1] += text[at : token.start()]
        at = token.end()
        if token["percent"]:
            texts[-1] += "%"
        elif token["name"] is None:
            raise ValueError(f"{text[token.start() :][:20]!r}: a percent sign is `%%`, an atom is as `%(h)s`")
        else:
            atoms.append(_padded(_atom(token["name"]), token["pad"], token["kind"], token[0]))
            texts.append("")
    texts[-1] += text[at:]
    return texts, atoms


def _atom(name: str) -> _Atom:
    if name in _ATOMS:
        return _ATOMS[name]
    match = re.fullmatch(r"\{([^{}]+)\}([ioe])", name)
    if match is None:
        known = " ".join(_ATOMS)
        raise ValueError(f"%({name})s: there is no such atom, only {known} and {{name}}i, {{name}}o, {{name}}e")
    return {"i": _request_header, "o": _response_header, "e": _variable}[match[2]](match[1])


def _padded(atom: _Atom, pad: str, kind: str, token: str) -> _Atom:
    if kind == "d":
        if atom not in _NUMBERS:
            raise ValueError(f"{token}: not a number, write s instead of d")
        return lambda entry: f"%{pad}d" % int(atom(entry))
    return (lambda entry: f"%{pad}s" % atom(entry)) if pad else atom


# --- atoms


def _request_header(name: str) -> _Atom:
    key = name.upper().replace("-", "_")
    key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key
    return lambda entry: entry.environ.get(key, "-")


def _response_header(name: str) -> _Atom:
    wanted = name.lower()

    def value(entry: Entry) -> str:
        return ", ".join([value for name, value in entry.headers if name.lower() == wanted]) or "-"

    return value


def _variable(name: str) -> _Atom:
    """In any case, as gunicorn has it: REMOTE_ADDR is also remote_addr. A name of mixed case as it is."""
    names = dict.fromkeys((name, name.upper(), name.lower()))

    def value(entry: Entry) -> str:
        found = (entry.environ[name] for name in names if name in entry.environ)
        return str(next(found, "-"))

    return value


def _user(entry: Entry) -> str:
    """Of Basic auth (RFC 7617 2)."""
    scheme, _, credentials = entry.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return "-"
    try:
        name, colon, _ = binascii.a2b_base64(credentials).partition(b":")
    except ValueError:
        return "-"
    # without a colon it may be all secret; with a space in it, it would look like two fields
    return name.decode("latin-1").replace(" ", "%20") or "-" if colon else "-"


def _request_line(entry: Entry) -> str:
    environ = entry.environ
    try:
        return f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}"
    except KeyError:
        return environ.get(REQUEST_LINE) or "-"


def _path(entry: Entry) -> str:
    """Whole, also where a middleware moved its beginning to SCRIPT_NAME."""
    return "".join([entry.environ.get("SCRIPT_NAME", ""), entry.environ.get("PATH_INFO", "")]) or "-"


def _microseconds(entry: Entry) -> int:
    return max(0, round(entry.duration_s * 1e6))


def _clock() -> _Atom:
    """`t`: made once a second, which is most of the time saved."""
    last_s, text = -1, ""

    def stamp(entry: Entry) -> str:
        nonlocal last_s, text
        now_s = int(entry.ended)
        if now_s != last_s:
            local = datetime.fromtimestamp(now_s, UTC).astimezone()
            text = f"[{local:%d}/{_MONTHS[local.month - 1]}/{local:%Y:%H:%M:%S %z}]"
            last_s = now_s
        return text

    return stamp


_ATOMS: dict[str, _Atom] = {
    "h": lambda entry: entry.environ.get("REMOTE_ADDR") or "-",  # empty for a Unix socket
    "l": lambda entry: "-",
    "u": _user,
    "t": _clock(),
    "r": _request_line,
    "m": lambda entry: entry.environ.get("REQUEST_METHOD", "-"),
    "U": _path,
    "q": lambda entry: entry.environ.get("QUERY_STRING", "-"),
    "H": lambda entry: entry.environ.get("SERVER_PROTOCOL", "-"),
    "s": lambda entry: entry.status_line[:3] or "-",
    "B": lambda entry: str(entry.body_bytes),
    "b": lambda entry: str(entry.body_bytes or "-"),
    "f": lambda entry: entry.environ.get("HTTP_REFERER", "-"),
    "a": lambda entry: entry.environ.get("HTTP_USER_AGENT", "-"),
    "T": lambda entry: str(_microseconds(entry) // 1_000_000),
    "M": lambda entry: str(_microseconds(entry) // 1000),
    "D": lambda entry: str(_microseconds(entry)),
    "L": lambda entry: f"{_microseconds(entry) / 1e6:.6f}",
    "p": lambda entry: f"<{entry.pid}>",
}
_NUMBERS = tuple(_ATOMS[name] for name in "BTMD")


# --- escapes

_HARMLESS = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')
_HARMFUL = re.compile(r'[^ !#-\[\]-~]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _harmful_in(line: str) -> bytes:
    return line.encode("utf-8", "surrogatepass").translate(None, _HARMLESS)


def _text_line(texts: list[str], atoms: list[_Atom]) -> Line:
    own = _harmful_in("".join(texts))  # quotes of the format, mostly
    frame = [piece for text in texts for piece in (text, "")][:-1]

    def line(entry: Entry) -> str:
        values = [atom(entry) for atom in atoms]
        parts = frame.copy()
        parts[1::2] = values
        try:
            made = "".join(parts)
            if _harmful_in(made) == own:  # no more than the format's own: nothing harmful is in the values
                return made
        except TypeError:  # not a str: the app has put something else into its environ
            pass
        parts[1::2] = [escaped(str(value)) for value in values]
        return "".join(parts)

    return line


def escaped(text: str) -> str:
    """In ASCII, harmless between double quotes. Characters that are no bytes show their UTF-8."""
    return _HARMFUL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    codes = char.encode("latin-1" if char <= "\xff" else "utf-8", "surrogatepass")
    return _SHORT.get(char) or "".join(f"\\x{code:02x}" for code in codes)


# --- a line of JSON


def _json_line(entry: Entry) -> str:
    return ""
