"""The options of `graceserve torture`, and the plan that comes of them. Pure; used by the command line."""

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from graceserve.config import Parser
from graceserve.errors import OperatorError
from graceserve.torture.tally import Kind
from graceserve.torture.target import Target, parse, path_of

DESCRIPTION = (
    "Reload a running server again and again under the load of clients that notice everything: keep-alive, one-shot, "
    "pipelined, slow and uploading ones. Prints how many requests they lost, how many of their connections were closed "
    "(announced by 'Connection: close', or not), and the latency before, during and after the reloads."
)
EPILOG = """\
A request is lost if the connection is refused, reset or closed before its whole response has come, if that does not
come within --timeout, or if its status is 5xx. Any other response counts, also the 405 that a page gives to the uploads
and the slow clients, which POST (4xx are counted as refused; --upload-path names a page that takes a POST). Nothing is
retried. A client sends its next request when it has the answer. Latency runs from the first byte sent (a new connection
included) to the last one received; for slow clients from the last byte sent.

How the server is reloaded: a graceserve master is asked through its control socket and waited for; any other server
gets a HUP if it handles that signal (gunicorn, uWSGI, granian), and nobody can know when it is done, so make --interval
longer than the app takes to start; or --reload-command does it. Everything else that loads the machine shows in the
latencies; the client's own lag is measured and printed beside them.

exit status: 0 no request was lost, no connection closed by a reload, and every reload went well; 1 otherwise;
2 usage, or nobody answers; 130 interrupted (what was seen until then is printed)
"""

CLIENTS_MAX = 20_000
BYTES_MAX = 1 << 30
SECONDS_MAX = 86_400.0
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~](?:[ -~]*[!-~])?)[ \t]*")  # RFC 9110 5.1, ASCII only
_OWN_FIELDS = ("connection", "content-length", "transfer-encoding", "expect", "upgrade")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. Durations are seconds, `rate` is requests a second of each client."""

    url: str
    target: Target
    pid: str = ""
    control_socket: str = ""
    reload_command: str = ""
    reloads: int = 20
    interval_s: float = 2.0
    steady_s: float = 5.0
    keep_alive: int = 16
    one_shot: int = 4
    pipelined: int = 2
    slow: int = 2
    uploads: int = 2
    upload_bytes: int = 256 * 1024
    upload_path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    rate: float = 10.0
    slow_s: float = 1.0
    timeout_s: float = 10.0
    json: bool = False

    @property
    def clients(self) -> dict[Kind, int]:
        """How many of each kind."""
        return {
            Kind.KEEP_ALIVE: self.keep_alive,
            Kind.ONE_SHOT: self.one_shot,
            Kind.PIPELINED: self.pipelined,
            Kind.SLOW: self.slow,
            Kind.UPLOAD: self.uploads,
        }


def read(words: Sequence[str], environ: Mapping[str, str]) -> Plan:
    """The plan. `words` are what follows `torture`. Raises `OperatorError`."""
    given, unknown = parser(environ).parse_known_args(list(words))
    if unknown:
        raise OperatorError(f"torture: {unknown[0]}: there is no such option; see `graceserve torture --help`")
    values = vars(given)
    if values["url"] is None:
        raise OperatorError("torture: which server? give a URL, as in `graceserve torture http://127.0.0.1:8000/`")
    target = parse(values["url"])
    upload_path = path_of(values["upload_path"], "--upload-path") if values["upload_path"] else target.path
    plan = Plan(target=target, **{**values, "headers": tuple(values["headers"]), "upload_path": upload_path})
    count = sum(plan.clients.values())
    if not 1 <= count <= CLIENTS_MAX:
        raise OperatorError(f"torture: {count} clients; --keep-alive and the others make 1 to {CLIENTS_MAX} together")
    return plan


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """Of the words behind `torture`."""
    made = _Parser("graceserve torture", "graceserve torture URL [OPTIONS]", DESCRIPTION)
    made.add_argument("url", nargs="?", metavar="URL",
                      help="what to ask: http://HOST:PORT/PATH or unix:/run/app.sock:/PATH")  # fmt: skip
    _reload_options(made.add_argument_group("reloads"), environ)
    _client_options(made.add_argument_group("clients"))
    made.add_argument_group("report").add_argument("--json", action="store_true", help="as JSON; progress to stderr")
    return made


def _reload_options(group: "argparse._ArgumentGroup", environ: Mapping[str, str]) -> None:
    add, seconds = group.add_argument, _number(float, 0, SECONDS_MAX)
    add("-p", "--pid", default=environ.get("GRACESERVE_PID", ""), metavar="PIDFILE|PID",
        help="the server's master; by default the only graceserve master of this user")  # fmt: skip
    add("--control-socket", default=environ.get("GRACESERVE_CONTROL_SOCKET", ""), metavar="PATH",
        help="a graceserve master's control socket, if that is a file")  # fmt: skip
    add("--reload-command", default="", metavar="CMD",
        help="a shell command that reloads the server, in place of a HUP; it must exit 0")  # fmt: skip
    add("--reloads", type=_number(int, 0, 1_000_000), default=20, metavar="N",
        help="how many; 0 only measures [20]")  # fmt: skip
    add("--interval", type=seconds, dest="interval_s", default=2.0, metavar="SECONDS",
        help="pause after each reload [2]")  # fmt: skip
    add("--steady", type=seconds, dest="steady_s", default=5.0, metavar="SECONDS",
        help="how long to measure before the first and after the last [5]")  # fmt: skip


def _client_options(group: "argparse._ArgumentGroup") -> None:
    add, count = group.add_argument, _number(int, 0, CLIENTS_MAX)
    add("--keep-alive", type=count, default=16, metavar="N", help="that keep their connection [16]")
    add("--one-shot", type=count, default=4, metavar="N", help="with a connection for each request [4]")
    add("--pipelined", type=count, default=2, metavar="N", help="that send four requests at a time [2]")
    add("--slow", type=count, default=2, metavar="N", help="that send head and body in small pieces [2]")
    add("--slow-time", type=_number(float, 0, 3600), dest="slow_s", default=1.0, metavar="SECONDS",
        help="how long a slow request takes to send [1]")  # fmt: skip
    add("--uploads", type=count, default=2, metavar="N", help="that send bodies, and keep their connection [2]")
    add("--upload-bytes", type=_number(int, 0, BYTES_MAX), default=256 * 1024, metavar="N",
        help="how long these are [262144]")  # fmt: skip
    add("--upload-path", default="", metavar="PATH", help="where to POST; by default where the URL says")
    add("--header", type=_field, action="append", dest="headers", default=[], metavar="'NAME: VALUE'",
        help="for every request; may be given several times")  # fmt: skip
    add("--rate", type=_number(float, 0.001, 1000), default=10.0, metavar="N",
        help="requests a second of each client, at most; a server that is saturated shows nothing [10]")  # fmt: skip
    add("--timeout", type=_number(float, 0.1, 3600), dest="timeout_s", default=10.0, metavar="SECONDS",
        help="a request that takes longer is lost [10]")  # fmt: skip


class _Parser(Parser):
    """Names its own help."""

    def error(self, message: str) -> NoReturn:
        flag, colon, rest = message.removeprefix("argument ").partition(": ")
        named = f"{flag.rpartition('/')[2]}: {rest}" if colon else message
        raise OperatorError(f"torture: {named}; see `graceserve torture --help`")


def _number(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not (math.isfinite(value) and least <= value <= most):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {least:g} to {most:.12g}")
        return value

    return parsed


def _field(text: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no header field; give 'Name: value'")
    if match[1].lower() in _OWN_FIELDS:
        raise argparse.ArgumentTypeError(f"{match[1]} is the clients' own business")
    return match[1], match[2]
