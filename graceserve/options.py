"""The options, one row each. Pure; the CLI, the variables, the TOML keys and the README's table all come from here.

Names and defaults are gunicorn's wherever the meaning is the same. A parser takes the text as the operator wrote it and
raises `ValueError`, whose text says what is expected: "is not a whole number; give 1 to 1000".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from graceserve import address
from graceserve.errors import OperatorError

Value: TypeAlias = "str | int | float | bool | tuple[str, ...]"
LEVELS = ("debug", "info", "warning", "error")
WORKERS_MAX = 1000  # the fleet's own limit
BINDS_MAX = 60  # all of a generation's listeners travel in one message (`wire.channel`)
FORWARDED_HEADERS = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
                     "x-forwarded-prefix", "forwarded")  # fmt: skip
_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


# --- what a text may be --------------------------------------------------------------------------------------------


def words(text: str) -> str:
    """One line without control characters."""
    if not text.isprintable():
        raise ValueError("holds a control character; give plain text")
    return text


def switch(text: str) -> bool:
    """A yes or no, as in a variable."""
    if text.lower() in _ON + _OFF:
        return text.lower() in _ON
    raise ValueError("is neither yes nor no; give true or false")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number within limits."""

    def parse(text: str) -> int:
        value = _digits(text)
        if not low <= value <= high:
            raise ValueError(f"is not a whole number from {low} to {high}; give one")
        return value

    return parse


def _digits(text: str) -> int:
    """-1 for what is no number, or one so long that int() would refuse it."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1


def seconds(low: float) -> Callable[[str], float]:
    """A duration; `nan` and `inf` are none."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= 10_000_000.0:  # 115 days: beyond it, poll(2) counts milliseconds in a C int
            raise ValueError(f"is not a number of seconds; give {low:g} or more")
        return value

    return parse


def mask(text: str) -> int:
    """A umask: 022 and 0o22 are octal, 0x12 and 18 the same number otherwise (as gunicorn)."""
    octal_in_c = len(text) > 1 and text[0] == "0" and text.isdecimal()
    try:
        value = int(text, 8 if octal_in_c else 0)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ValueError("is not a umask; give an octal number from 0 to 0777, as in 007")
    return value


def surge(text: str) -> int:
    """Extra workers during a reload: `100%` (stored as 0) or a number."""
    if text == "100%":
        return 0
    if 1 <= _digits(text) <= WORKERS_MAX:
        return _digits(text)
    raise ValueError(f"is neither 100% nor a number of workers from 1 to {WORKERS_MAX}; give one of them")


def level(text: str) -> str:
    """A log level."""
    if text.lower() not in LEVELS:
        raise ValueError(f"is not a level; give one of {', '.join(LEVELS)}")
    return text.lower()


def bind(text: str) -> str:
    """An address, checked by the parser that the listeners use."""
    try:
        address.parse(words(text))
    except OperatorError as error:
        raise ValueError(str(error).removeprefix(f"--bind {text}: ")) from None
    return text


def variable(text: str) -> str:
    """KEY=VALUE."""
    key, equals, _ = text.partition("=")
    if not equals or not key.isprintable() or not key.strip() or "\0" in text:
        raise ValueError("is not a variable; give KEY=VALUE")
    return text


def url_path(text: str) -> str:
    """The path of a warm-up request, or the URL `http://HOST/PATH` for an app that asks for its host's name."""
    host, slash, _ = text.removeprefix("http://").partition("/")
    named = text.startswith("http://") and bool(host)
    if not (named or text.startswith("/")) or not slash or not text.isprintable() or " " in text:
        raise ValueError("is not the path of a URL; give one like /healthz, or http://shop.example/healthz")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}; give one of them")
        return text.lower()

    return parse


def peers(text: str) -> str:
    """Who may speak for a client: addresses, networks, `unix` or `*`, separated by commas; empty is nobody."""
    import ipaddress  # noqa: PLC0415  # the master keeps what it imports; few command lines name a peer

    for part in filter(None, map(str.strip, text.split(","))):
        try:
            _ = part in ("*", "unix") or ipaddress.ip_network(part)
        except ValueError as error:
            raise ValueError(f"is not a list of peers ({error}); give addresses, networks like 10.0.0.0/8, unix or *"
                             ) from None
    return text


def believed(text: str) -> str:
    """Header names of `FORWARDED_HEADERS`, separated by commas; empty is none."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if unknown := [name for name in names if name not in FORWARDED_HEADERS]:
        raise ValueError(f"has {unknown[0]!r}, which says nothing of a client; give any of "
                         f"{', '.join(FORWARDED_HEADERS)}")
    return ",".join(names)


def access_format(text: str) -> str:
    """The access log's format, checked by what makes its lines."""
    from graceserve.worker.access_format import compile_format  # noqa: PLC0415  # re, json: only where it is given

    try:
        compile_format(words(text))
    except ValueError as error:
        raise ValueError(f"is not a format: {error}") from None
    return text


def app(text: str) -> str:
    """MODULE:CALLABLE, with gunicorn's default for the callable."""
    module, colon, name = text.partition(":")
    if "/" in module or (module.endswith(".py") and not colon):
        raise ValueError("is a file; give MODULE:CALLABLE, as in hello:app, and --chdir for its directory")
    if not all(part.isidentifier() for part in module.split(".")) or (colon and not name):
        raise ValueError("is not MODULE:CALLABLE; give it as in hello:app or hello:create_app()")
    return words(f"{module}:{name or 'application'}")


# --- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """One row. `default` is what `Settings` holds when nobody says otherwise.

    `repeat`: may be given several times, parsed one by one into a tuple. `restart`: a change can't be taken over by a
    reload. `metavar` is empty for a switch. `bare` is what the flag means without a value.
    """

    field: str
    flags: tuple[str, ...]  # the long one last; none for the positional
    parse: Callable[[str], Value]
    default: Value
    metavar: str
    section: str
    help: str
    repeat: bool = False
    restart: bool = False
    bare: str = ""

    @property
    def key(self) -> str:
        """Its name in the TOML file."""
        return self.field

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"GRACESERVE_{self.field.upper()}"

    @property
    def flag(self) -> str:
        """How messages name it."""
        return self.flags[-1] if self.flags else self.metavar

    @property
    def is_switch(self) -> bool:
        """A flag without a value; `--no-...` is its opposite."""
        return not self.metavar

    def shown(self) -> str:
        """The default, as the operator would write it."""
        match self.default:
            case bool():
                return "on" if self.default else "off"
            case 0 if self.field == "reload_surge":
                return "100%"
            case float():
                return f"{self.default:g}"
            case tuple():
                return " ".join(self.default)
        return str(self.default)


_APP, _RELEASE, _SERVING, _HTTP, _PROXY, _TLS, _RELOAD, _PROCESS, _LOG = (
    "Application", "Release", "Serving", "HTTP", "Behind a proxy", "TLS", "Starting and reloading", "Process", "Logging"
)  # fmt: skip

OPTIONS: tuple[Option, ...] = (
    Option("app", (), app, "", "MODULE:CALLABLE", _APP,
           "`hello:app`, a factory `hello:create_app()`, or just `hello` for `hello:application`"),
    Option("config", ("-c", "--config"), words, "", "FILE", _APP,
           "TOML file with these options; `graceserve.toml` is read when it is there"),
    Option("chdir", ("--chdir",), words, "", "DIR", _APP,
           "directory to serve from; a symlink is followed at each reload"),
    Option("preload", ("--preload",), switch, False, "", _APP,
           "import the app once, in the template, and share its memory between the workers"),
    Option("env", ("-e", "--env"), variable, (), "KEY=VALUE", _APP,
           "set a variable for the app (repeatable)", repeat=True),
    Option("env_file", ("--env-file",), words, "", "FILE", _APP,
           "file of KEY=VALUE lines for the app, relative to the release; read again at each reload"),
    Option("release", ("--release",), words, "", "LINK", _RELEASE,
           "the symlink to the release, when it is not in the paths of the command line"),
    Option("python", ("--python",), words, "", "PATH", _RELEASE,
           "the release's interpreter, relative to it; with --release `venv/bin/python` or `.venv/bin/python`"),
    Option("bind", ("-b", "--bind"), bind, ("127.0.0.1:8000",), "ADDRESS", _SERVING,
           "HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N (repeatable); 0.0.0.0:$PORT when PORT is set", repeat=True),
    Option("workers", ("-w", "--workers"), whole(1, WORKERS_MAX), 1, "N", _SERVING,
           "worker processes; $WEB_CONCURRENCY when that is set"),
    Option("threads", ("--threads",), whole(1, 10_000), 1, "N", _SERVING,
           "threads of a worker that run the app; 1 runs it on the worker's event loop"),
    Option("worker_connections", ("--worker-connections",), whole(1, 1_000_000), 1000, "N", _SERVING,
           "connections that a worker holds at a time"),
    Option("keep_alive", ("--keep-alive",), seconds(0), 75.0, "SECONDS", _SERVING,
           "close a connection that is idle for so long; keep it above your proxy's idle time (nginx: 60)"),
    Option("timeout", ("-t", "--timeout"), seconds(0), 30.0, "SECONDS", _SERVING,
           "replace a worker that is stuck for so long; 0 is never"),
    Option("http", ("--http",), one_of("auto", "httptools", "h11"), "auto", "PARSER", _HTTP,
           "reads heads: httptools (C, fast) or h11 (Python); auto is httptools where it is installed"),
    Option("limit_request_line", ("--limit-request-line",), whole(0, 1 << 20), 4094, "BYTES", _HTTP,
           "longest request line; 0 is unlimited"),
    Option("limit_request_fields", ("--limit-request-fields",), whole(0, 32_768), 100, "N", _HTTP,
           "most header fields of a request; 0 is unlimited"),
    Option("limit_request_field_size", ("--limit-request-field_size", "--limit-request-field-size"), whole(0, 1 << 20),
           8190, "BYTES", _HTTP, "longest header field; 0 is unlimited"),
    Option("limit_request_body", ("--limit-request-body",), whole(0, 1 << 50), 1 << 30, "BYTES", _HTTP,
           "longest request body; 0 is unlimited"),
    Option("head_timeout", ("--head-timeout",), seconds(0), 60.0, "SECONDS", _HTTP,
           "time for a request's head to arrive, and for a TLS handshake; 0 is unlimited"),
    Option("body_timeout", ("--body-timeout",), seconds(0), 60.0, "SECONDS", _HTTP,
           "give up a body of which nothing comes for so long, or less than 500 bytes a second after that; "
           "0 is never"),
    Option("write_timeout", ("--write-timeout",), seconds(0), 60.0, "SECONDS", _HTTP,
           "give up a client that takes nothing of its response for so long, or less than 500 bytes a second after "
           "that; 0 is never"),
    Option("header_map", ("--header-map",), one_of("drop", "refuse", "dangerous"), "drop", "WAY", _HTTP,
           "header names with an underscore, which look like others to the app: drop, refuse or dangerous (pass on)"),
    Option("forwarded_allow_ips", ("--forwarded-allow-ips",), peers, "127.0.0.1,::1,unix", "PEERS", _PROXY,
           "proxies to believe: addresses and networks, `unix` for Unix sockets, `*` for all; "
           "$FORWARDED_ALLOW_IPS when that is set"),
    Option("forwarded_headers", ("--forwarded-headers",), believed, "x-forwarded-for,x-forwarded-proto", "NAMES",
           _PROXY, "what to believe them: x-forwarded-for, -proto, -host, -port, -prefix, forwarded; "
           "name only what your proxy sets itself"),
    Option("proxy_protocol", ("--proxy-protocol",), one_of("off", "v1", "v2", "auto"), "off", "VERSION", _PROXY,
           "expect the PROXY protocol: off, v1, v2, or auto for both", bare="auto"),
    Option("proxy_allow_ips", ("--proxy-allow-from", "--proxy-allow-ips"), peers, "127.0.0.1,::1,unix", "PEERS", _PROXY,
           "proxies that send it; connections of others are served without"),
    Option("certfile", ("--certfile",), words, "", "FILE", _TLS,
           "serve TLS with this certificate chain (PEM), relative to the release; read again at each reload"),
    Option("keyfile", ("--keyfile",), words, "", "FILE", _TLS, "its private key (PEM); by default in --certfile"),
    Option("ca_certs", ("--ca-certs",), words, "", "FILE", _TLS,
           "demand a client certificate that one of these authorities (PEM) has signed"),
    Option("ciphers", ("--ciphers",), words, "", "CIPHERS", _TLS, "OpenSSL's list for TLS 1.2; by default Python's"),
    Option("graceful_timeout", ("--graceful-timeout",), seconds(0), 30.0, "SECONDS", _RELOAD,
           "time for requests to finish when a worker leaves"),
    Option("startup_timeout", ("--startup-timeout",), seconds(0.1), 60.0, "SECONDS", _RELOAD,
           "time for a new release to be ready, prepare included; up to ten times that while it is busy"),
    Option("warmup", ("--warmup",), url_path, (), "PATH", _RELOAD,
           "GET this path (or http://HOST/PATH) in each new worker before it counts as ready; "
           "must answer below 400 (repeatable)",
           repeat=True),
    Option("prepare", ("--prepare",), words, "", "COMMAND", _RELOAD,
           "run this in the new release first; if it fails, so does the reload"),
    Option("reload_surge", ("--reload-surge",), surge, 0, "N", _RELOAD,
           "extra workers during a reload: 100%, or N at a time where memory is small"),
    Option("pid", ("-p", "--pid"), words, "", "FILE", _PROCESS, "pid file", restart=True),
    Option("name", ("-n", "--name"), words, "", "NAME", _PROCESS, "name shown in the process titles", restart=True),
    Option("user", ("-u", "--user"), words, "", "USER", _PROCESS,
           "user to become after binding, a name or a number", restart=True),
    Option("group", ("-g", "--group"), words, "", "GROUP", _PROCESS,
           "group to become after binding, a name or a number", restart=True),
    Option("umask", ("-m", "--umask"), mask, 0, "MASK", _PROCESS,
           "file mode mask; also decides who may connect to a unix: socket", restart=True),
    Option("control_socket", ("--control-socket",), words, "", "PATH", _PROCESS,
           "control socket as a file; by default it has no file (abstract)", restart=True),
    Option("access_logfile", ("--access-log", "--access-logfile"), words, "", "FILE", _LOG,
           "log each request to this file, `-` is stdout; opened again at USR1"),
    Option("access_logformat", ("--access-logformat",), access_format,
           '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"', "FORMAT", _LOG,
           "gunicorn's atoms, or `json`"),
    Option("error_logfile", ("--log-file", "--error-logfile"), words, "-", "FILE", _LOG,
           "log to this file, `-` is stderr; opened again at USR1", restart=True),
    Option("log_level", ("--log-level",), level, "info", "LEVEL", _LOG,
           "debug, info, warning or error", restart=True),
    Option("log_json", ("--log-json",), switch, False, "", _LOG, "log lines are JSON objects", restart=True),
)  # fmt: skip

BY_FIELD: dict[str, Option] = {option.field: option for option in OPTIONS}

GUNICORN_KEYS = {  # of its configuration file, where the name differs
    "keepalive": "keep_alive", "preload_app": "preload", "pidfile": "pid", "proc_name": "name", "raw_env": "env",
    "errorlog": "error_logfile", "accesslog": "access_logfile", "access_log_format": "access_logformat",
    "proxy_allow_from": "proxy_allow_ips", "loglevel": "log_level", "wsgi_app": "app",
}  # fmt: skip

GUNICORN_FLAGS = {  # that graceserve does not have, and what to do instead
    "-k": "graceserve has one kind of worker; leave it out, and use --threads for concurrency",
    "--worker-class": "graceserve has one kind of worker; leave it out, and use --threads for concurrency",
    "-D": "graceserve stays in the foreground; let systemd or a container run it",
    "--daemon": "graceserve stays in the foreground; let systemd or a container run it",
    "--reload": "use `graceserve reload` after a change; graceserve does not watch files",
    "--reload-engine": "use `graceserve reload` after a change; graceserve does not watch files",
    "--reload-extra-file": "use `graceserve reload` after a change; graceserve does not watch files",
    "--backlog": "the listen backlog is the kernel's net.core.somaxconn; leave it out",
    "--reuse-port": "workers share one listening socket, so that nothing queued is lost at a reload; leave it out",
    "--worker-tmp-dir": "workers have a channel to the master instead of a file; leave it out",
    "--pythonpath": "set PYTHONPATH with --env, or use --chdir",
    "--paste": "graceserve serves a WSGI callable; name it as MODULE:CALLABLE",
    "--max-requests": "workers are not recycled by count; leave it out",
    "--max-requests-jitter": "workers are not recycled by count; leave it out",
    "--capture-output": "the app's stdout and stderr are graceserve's already; leave it out",
    "--initgroups": "the user's supplementary groups are always set; leave it out",
    "--ssl-version": "TLS 1.2 and 1.3 are served; leave it out",
    "--cert-reqs": "--ca-certs demands client certificates; leave it out",
    "--do-handshake-on-connect": "handshakes never block; leave it out",
    "--suppress-ragged-eofs": "leave it out",
    "--forwarder-headers": "--forwarded-headers names what a proxy is believed",
    "--permit-obsolete-folding": "folded header lines are refused, as RFC 9112 5.2 allows",
    "--strip-header-spaces": "spaces before the colon are refused, as RFC 9112 5.1 demands",
    "--permit-unconventional-http-method": "methods are tokens of upper-case letters, digits and - _ . and the like",
    "--permit-unconventional-http-version": "HTTP/1.0 and HTTP/1.1 are served",
    "--casefold-http-method": "method names are case-sensitive (RFC 9110 9.1)",
    "--statsd-host": "there is no statsd client; `graceserve status --json` has the numbers",
    "--check-config": "there is no dry run yet; a reload that fails changes nothing",
    "--print-config": "`graceserve --help` lists the options with their defaults",
    "--log-config": "graceserve's log is lines of key=value, or JSON with --log-json",
    "--log-syslog": "graceserve logs to stderr or a file; let journald collect it",
    "--no-sendfile": "leave it out",
}
