"""Options, one table: `Settings`, the command line, variables and TOML keys agree with it; errors are one line."""

import dataclasses
import json

import pytest

from graceserve.config import OPTIONS, Option, Settings, config_path, parser, peek, read, restart_needed
from graceserve.errors import OperatorError
from graceserve.options import BY_FIELD, GUNICORN_FLAGS, GUNICORN_KEYS

# A value for each option that is not its default: as written, and as read.
SAMPLES: dict[str, tuple[str, object]] = {
    "app": ("pkg.mod:create_app('x')", "pkg.mod:create_app('x')"),
    "config": ("conf/prod.toml", "conf/prod.toml"),
    "chdir": ("src", "src"),
    "preload": ("true", True),
    "env": ("A=b=c", ("A=b=c",)),
    "env_file": (".env", ".env"),
    "release": ("/srv/app/current", "/srv/app/current"),
    "python": ("venv/bin/python", "venv/bin/python"),
    "bind": ("unix:/run/app.sock", ("unix:/run/app.sock",)),
    "workers": ("4", 4),
    "threads": ("8", 8),
    "worker_connections": ("10", 10),
    "keep_alive": ("2.5", 2.5),
    "timeout": ("0", 0.0),
    "http": ("h11", "h11"),
    "limit_request_line": ("0", 0),
    "limit_request_fields": ("7", 7),
    "limit_request_field_size": ("100", 100),
    "limit_request_body": ("1000", 1000),
    "head_timeout": ("5", 5.0),
    "body_timeout": ("5", 5.0),
    "write_timeout": ("5", 5.0),
    "header_map": ("refuse", "refuse"),
    "forwarded_allow_ips": ("10.0.0.0/8,::1,unix", "10.0.0.0/8,::1,unix"),
    "forwarded_headers": ("Forwarded", "forwarded"),
    "proxy_protocol": ("v2", "v2"),
    "proxy_allow_ips": ("*", "*"),
    "certfile": ("cert.pem", "cert.pem"),
    "keyfile": ("key.pem", "key.pem"),
    "ca_certs": ("ca.pem", "ca.pem"),
    "ciphers": ("ECDHE+AESGCM", "ECDHE+AESGCM"),
    "graceful_timeout": ("7", 7.0),
    "startup_timeout": ("120", 120.0),
    "warmup": ("/healthz", ("/healthz",)),
    "prepare": ("venv/bin/python manage.py migrate", "venv/bin/python manage.py migrate"),
    "reload_surge": ("2", 2),
    "pid": ("/run/app.pid", "/run/app.pid"),
    "name": ("shop", "shop"),
    "user": ("www-data", "www-data"),
    "group": ("33", "33"),
    "umask": ("007", 0o007),
    "control_socket": ("/run/app.ctl", "/run/app.ctl"),
    "access_logfile": ("/var/log/access.log", "/var/log/access.log"),
    "access_logformat": ("json", "json"),
    "error_logfile": ("/var/log/app.log", "/var/log/app.log"),
    "log_level": ("WARNING", "warning"),
    "log_json": ("yes", True),
}
each_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.field)


def refusal(argv: list[str], environ: dict[str, str] | None = None, toml: str | None = None) -> str:
    with pytest.raises(OperatorError) as caught:
        read(argv, environ or {}, toml, "graceserve.toml")
    text = str(caught.value)
    assert "\n" not in text and text
    return text


def with_app(argv: list[str], option: Option) -> list[str]:
    return argv if option.field == "app" else ["x:y", *argv]


def test_settings_and_the_table_are_the_same() -> None:
    fields = dataclasses.fields(Settings)
    assert [field.name for field in fields] == [option.field for option in OPTIONS]
    assert [field.default for field in fields] == [option.default for option in OPTIONS]
    assert set(SAMPLES) == set(BY_FIELD)


@each_option
def test_a_row_is_consistent(option: Option) -> None:
    written, expected = SAMPLES[option.field]
    value = option.parse(written)
    assert ((value,) if option.repeat else value) == expected != option.default
    assert type(expected) is type(option.default)
    assert all(flag.startswith("-") for flag in option.flags)
    assert option.help and not option.help.endswith(".")


@each_option
def test_from_the_command_line(option: Option) -> None:
    written, expected = SAMPLES[option.field]
    for flag in option.flags or ("",):
        argv = [flag] if option.is_switch else [flag, written] if flag else [written]
        assert getattr(read(with_app(argv, option), {}, None, ""), option.field) == expected


@each_option
def test_from_a_variable(option: Option) -> None:
    assert option.variable.removeprefix("GRACESERVE_").lower() == option.field == option.key
    written, expected = SAMPLES[option.field]
    argv = with_app([], option)
    assert getattr(read(argv, {option.variable: written}, None, ""), option.field) == expected
    if option.field != "app":
        assert getattr(read(argv, {option.variable: ""}, None, ""), option.field) == option.default


@each_option
def test_from_toml(option: Option) -> None:
    written, expected = SAMPLES[option.field]
    literal = json.dumps(True if option.is_switch else [written] if option.repeat else written)
    if option.field == "config":
        assert "no such option" in refusal(["x:y"], toml=f"config = {literal}")
        return
    assert getattr(read(with_app([], option), {}, f"{option.key} = {literal}", "g.toml"), option.field) == expected


@each_option
def test_what_is_stronger_wins(option: Option) -> None:
    """Command line over variable over TOML over default."""
    if option.is_switch or option.field == "config":
        return
    written, expected = SAMPLES[option.field]
    weak = {"app": "other:app", "bind": "127.0.0.1:1", "env": "X=1", "warmup": "/", "log_level": "debug",
            "http": "httptools", "header_map": "dangerous", "forwarded_allow_ips": "::2",
            "forwarded_headers": "x-forwarded-port",
            "proxy_protocol": "v1", "access_logformat": "%(h)s", "proxy_allow_ips": "::2"}.get(
        option.field, "3"
    )
    toml = f'{option.key} = "{weak}"'
    flags = [option.flags[-1], written] if option.flags else [written]
    assert getattr(read(with_app(flags, option), {option.variable: weak}, toml, ""), option.field) == expected
    assert getattr(read(with_app([], option), {option.variable: written}, toml, ""), option.field) == expected


def test_a_switch_can_be_turned_off_again() -> None:
    assert read(["x:y", "--no-preload"], {"GRACESERVE_PRELOAD": "1"}, "preload = true", "").preload is False
    assert read(["x:y"], {"GRACESERVE_PRELOAD": "0"}, "preload = true", "").preload is False
    assert read(["x:y"], {}, "preload = true", "").preload is True


def test_gunicorn_s_defaults_from_the_environment() -> None:
    environ = {"PORT": "5000", "WEB_CONCURRENCY": "3"}
    assert read(["x:y"], environ, None, "").bind == ("0.0.0.0:5000",)
    assert read(["x:y"], environ, None, "").workers == 3
    stronger = read(["x:y"], environ, 'bind = "[::1]:1"\nworkers = 2', "")
    assert (stronger.bind, stronger.workers) == (("[::1]:1",), 2)
    assert "PORT" in refusal(["x:y"], {"PORT": "http"})
    assert refusal(["x:y"], {"WEB_CONCURRENCY": "many"}).startswith("WEB_CONCURRENCY: 'many' is not a whole number")


def test_repeatable_options() -> None:
    argv = ["x:y", "-b", ":1", "-b", "unix:a", "--warmup", "/a", "--warmup", "/b?c,d", "-e", "A=1", "-e", "B="]
    settings = read(argv, {}, None, "")
    assert settings.bind == (":1", "unix:a")
    assert settings.warmup == ("/a", "/b?c,d")
    assert settings.env == ("A=1", "B=")
    assert read(["x:y"], {"GRACESERVE_BIND": ":1  unix:a"}, None, "").bind == (":1", "unix:a")
    assert read(["x:y"], {}, 'env = { A = "1", B = "" }', "").env == ("A=1", "B=")
    assert read(["x:y"], {}, '[env]\nA = "1"', "").env == ("A=1",)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("hello", "hello:application"), ("hello:app", "hello:app"), ("a.b:c.d", "a.b:c.d"), ("a:f()", "a:f()")],
)
def test_apps(written: str, expected: str) -> None:
    assert read([written], {}, None, "").app == expected


@pytest.mark.parametrize(
    ("text", "value"), [("022", 0o22), ("0o22", 0o22), ("18", 18), ("0x12", 18), ("0", 0), ("000", 0), ("0777", 0o777)]
)
def test_umasks_are_written_as_gunicorn_s(text: str, value: int) -> None:
    assert read(["x:y", "-m", text], {}, None, "").umask == value


def test_toml_numbers() -> None:
    toml = "workers = 2\nkeep_alive = 5\ntimeout = 0.5\nreload_surge = 3\numask = 0o22"
    settings = read(["x:y"], {}, toml, "")
    assert (settings.workers, settings.keep_alive, settings.timeout) == (2, 5.0, 0.5)
    assert (settings.reload_surge, settings.umask) == (3, 0o22)


REFUSED_ARGV = [
    ([], "no app is named"),
    (["hello.py"], "is a file; give MODULE:CALLABLE"),
    (["src/hello.py:app"], "is a file"),
    (["hello:"], "is not MODULE:CALLABLE"),
    ([":app"], "is not MODULE:CALLABLE"),
    (["9lives:app"], "is not MODULE:CALLABLE"),
    (["x:y", "second:app"], "second:app: one app is served"),
    (["x:y", "-w", "0"], "--workers: '0' is not a whole number from 1 to 1000"),
    (["x:y", "-w", "1e3"], "--workers: '1e3'"),
    (["x:y", "-w", "²"], "--workers: '²'"),
    (["x:y", "-w", "9" * 5000], "--workers: "),
    (["x:y", "-w", "-1"], "--workers: "),
    (["x:y", "--workers"], "--workers: expected one argument"),
    (["x:y", "--timeout", "nan"], "--timeout: 'nan' is not a number of seconds"),
    (["x:y", "--timeout", "inf"], "--timeout: 'inf'"),
    (["x:y", "--keep-alive", "soon"], "--keep-alive: 'soon'"),
    (["x:y", "--startup-timeout", "0"], "--startup-timeout: '0' is not a number of seconds; give 0.1 or more"),
    (["x:y", "-m", "888"], "--umask: '888' is not a umask"),
    (["x:y", "-m", "08"], "--umask: '08'"),
    (["x:y", "-e", "NAME"], "--env: 'NAME' is not a variable; give KEY=VALUE"),
    (["x:y", "-e", "=v"], "--env: '=v'"),
    (["x:y", "--warmup", "healthz"], "--warmup: 'healthz' is not the path of a URL"),
    (["x:y", "--warmup", "http:///x"], "--warmup: 'http:///x' is not the path of a URL"),
    (["x:y", "--warmup", "http://shop.example"], "--warmup: 'http://shop.example' is not the path of a URL"),
    (["x:y", "--reload-surge", "50%"], "--reload-surge: '50%' is neither 100% nor"),
    (["x:y", "--log-level", "loud"], "--log-level: 'loud' is not a level; give one of debug"),
    (["x:y", "-b", "::1:8000"], "[::1]:8000"),
    (["x:y", "-b", "localhost:http"], "--bind: 'localhost:http' 'http' is not a port"),
    (["x:y", "-n", "a\nb"], "--name: 'a\\nb' holds a control character"),
    (["x:y", "--bnid", ":1"], "--bnid: there is no such option; did you mean --bind?"),
    (["x:y", "--work", "2"], "--work: there is no such option"),  # no abbreviations: they break when options come
    (["x:y", "--xyzzy=2"], "--xyzzy: there is no such option; `graceserve --help` lists them"),
    (["x:y", "--worker-class", "gevent"], "--worker-class: graceserve has one kind of worker"),
    (["x:y", "-k", "gthread"], "-k: graceserve has one kind of worker"),
    (["x:y", "--max-requests=100"], "--max-requests: "),
    (["x:y", "-k", "gevent", "--max-requests", "9", "--max-requests-jitter=3", "--max-requests", "8", "-D"],
     "-k: graceserve has one kind of worker; leave it out, and use --threads for concurrency; "
     "--max-requests, --max-requests-jitter: workers are not recycled by count; leave it out; -D: graceserve stays in"),
    (["x:y", "-b", "unix:/tmp/a\x7fb"], "--bind: 'unix:/tmp/a\\x7fb' holds a control character"),
    (["x:y", *(f"--bind=:{port}" for port in range(61))], "--bind: 61 addresses; give at most 60"),
    (["x:y", "--preload=yes"], "--preload: "),
]


@pytest.mark.parametrize(("argv", "expected"), REFUSED_ARGV, ids=lambda value: " ".join(value)[:40])
def test_a_bad_command_line_is_one_line(argv: list[str], expected: str) -> None:
    assert expected in refusal(argv)


REFUSED_TOML = [
    ("workers = ", "graceserve.toml: Invalid value (at "),
    ('\n\nworkers = "x"', "workers in graceserve.toml:3: 'x' is not a whole number"),
    ("wrokers = 2", "wrokers in graceserve.toml:1: there is no such option; did you mean workers?"),
    ("graceful-timeout = 2", "did you mean graceful_timeout?"),
    ("keepalive = 2", "did you mean keep_alive?"),
    ("preload = 1", "preload in graceserve.toml:1: 1 is not a switch; give true or false"),
    ("workers = true", "workers in graceserve.toml:1: True is not N"),
    ("workers = [1]", "workers in graceserve.toml:1: [1] is not N"),
    ("workers = 1.5", "'1.5' is not a whole number"),
    ("bind = 8000", "bind in graceserve.toml:1: 8000 is not a list of strings"),
    ('bind = [":1", 2]', "is not a list of strings"),
    ('bind = ["unix:/tmp/a\\u0000b"]', "bind in graceserve.toml:1: 'unix:/tmp/a\\x00b' holds a control character"),
    ("timeout = inf", "timeout in graceserve.toml:1: 'inf'"),
    ("[graceserve]\nworkers = 2", "graceserve in graceserve.toml:1: there is no such option"),
    ("timeout_x = 1\ntimeout = 'a'", "timeout_x in graceserve.toml:1"),
    ("workers = 2\nworkers = 3", "graceserve.toml: Cannot overwrite a value"),
]


@pytest.mark.parametrize(("toml", "expected"), REFUSED_TOML, ids=lambda value: value[:30])
def test_bad_toml_is_one_line(toml: str, expected: str) -> None:
    assert expected in refusal(["x:y"], toml=toml)


def test_a_weaker_source_is_checked_although_it_is_overridden() -> None:
    assert "workers in graceserve.toml:1" in refusal(["x:y", "-w", "2"], toml='workers = "two"')
    assert refusal(["x:y", "-w", "2"], {"GRACESERVE_WORKERS": "two"}).startswith("GRACESERVE_WORKERS: 'two'")


def test_switch_variables() -> None:
    for text, value in (("1", True), ("ON", True), ("no", False), ("False", False)):
        assert read(["x:y"], {"GRACESERVE_LOG_JSON": text}, None, "").log_json is value
    assert "neither yes nor no" in refusal(["x:y"], {"GRACESERVE_LOG_JSON": "2"})


def test_other_variables_are_left_alone() -> None:
    """Kubernetes sets such ones for a service that is called graceserve."""
    assert read(["x:y"], {"GRACESERVE_SERVICE_HOST": "10.0.0.1"}, None, "") == Settings(app="x:y")


def test_gunicorn_s_names_lead_to_ours() -> None:
    assert set(GUNICORN_KEYS.values()) <= set(BY_FIELD)
    ours = {flag for option in OPTIONS for flag in option.flags}
    assert not ours & set(GUNICORN_FLAGS)


def test_config_path_and_peek() -> None:
    assert config_path(["x:y"], {}) == ""
    assert config_path(["x:y"], {"GRACESERVE_CONFIG": "a.toml"}) == "a.toml"
    assert config_path(["x:y", "-c", "b.toml"], {"GRACESERVE_CONFIG": "a.toml"}) == "b.toml"
    assert peek(["--chdir", "d"], {"GRACESERVE_RELEASE": "r"}) == Settings(chdir="d", release="r")


def test_dump_and_load() -> None:
    values = {field: expected for field, (_, expected) in SAMPLES.items()}
    settings = Settings(**values)  # type: ignore[arg-type]  # each is compared with its row above
    data = json.loads(json.dumps(settings.dump()))
    assert Settings.load(data) == settings
    assert Settings.load({**data, "from_the_future": 1}) == settings
    assert Settings.load({}) == Settings()
    assert hash(Settings.load(data)) == hash(settings)  # tuples are tuples again


@each_option
def test_restart_needed(option: Option) -> None:
    old = Settings(app="a:b")
    new = dataclasses.replace(old, **{option.field: SAMPLES[option.field][1]})  # type: ignore[arg-type]
    assert restart_needed(old, old) == []
    assert restart_needed(old, new) == ([option.flag] if option.restart else [])


def test_these_need_a_restart() -> None:
    assert {option.field for option in OPTIONS if option.restart} == {
        "pid", "name", "user", "group", "umask", "control_socket", "error_logfile", "log_level", "log_json"
    }  # fmt: skip


def test_help_has_every_flag_and_default() -> None:
    text = " ".join(parser().format_help().split())
    for option in OPTIONS:
        assert all(flag in text for flag in option.flags)
        if option.shown():
            assert f"[{option.shown()}]".replace(" ", "") in text.replace(" ", ""), "lines are wrapped at hyphens"
    assert "==SUPPRESS==" not in text
