"""The words behind `graceserve torture`."""

import dataclasses

import pytest

from graceserve.errors import OperatorError
from graceserve.torture.options import CLIENTS_MAX, Plan, parser, read
from graceserve.torture.tally import Kind
from graceserve.torture.target import parse

NOBODY = ["--keep-alive", "0", "--one-shot", "0", "--pipelined", "0", "--slow", "0", "--uploads", "0"]
URL = "http://127.0.0.1:8000/shop"


def test_the_defaults_are_the_plan_s() -> None:
    assert read([URL], {}) == Plan(URL, parse(URL), upload_path="/shop")


def test_every_option_has_its_field() -> None:
    fields = {field.name for field in dataclasses.fields(Plan)} - {"target"}
    assert set(vars(parser({}).parse_args([]))) == fields


def test_all_options() -> None:
    words = (
        f"{URL} --pid 7 --control-socket /c --reload-command x --reloads 1 --interval 0.5 --steady 3 --keep-alive 1"
        " --one-shot 2 --pipelined 3 --slow 4 --uploads 5 --upload-bytes 6 --upload-path /up --rate 7.5 --slow-time 8"
        " --timeout 9 --json"
    ).split()
    plan = read([*words, "--header", "X-A: b c", "--header", "Host:shop"], {})
    assert plan == Plan(
        URL, parse(URL), "7", "/c", "x", 1, 0.5, 3.0, 1, 2, 3, 4, 5, 6, "/up", (("X-A", "b c"), ("Host", "shop")), 7.5,
        8.0, 9.0, True,
    )  # fmt: skip
    assert plan.clients == {
        Kind.KEEP_ALIVE: 1, Kind.ONE_SHOT: 2, Kind.PIPELINED: 3, Kind.SLOW: 4, Kind.UPLOAD: 5
    }  # fmt: skip


def test_the_variables_of_the_unit_are_used() -> None:
    plan = read([URL], {"GRACESERVE_PID": "/run/pid", "GRACESERVE_CONTROL_SOCKET": "/run/ctl"})
    assert (plan.pid, plan.control_socket) == ("/run/pid", "/run/ctl")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "torture: which server? give a URL"),
        ([URL, "more"], "torture: more: there is no such option"),
        ([URL, "--relods", "3"], "torture: --relods: there is no such option"),
        ([URL, "--reloads"], "torture: --reloads: expected one argument; see `graceserve torture --help`"),
        ([URL, "--reloads", "-1"], "'-1' is not a whole number from 0"),
        ([URL, "--reloads", "1.5"], "'1.5' is not a whole number"),
        ([URL, "--rate", "0"], "--rate: '0' is not a number from 0.001 to 1000"),
        ([URL, "--interval", "nan"], "'nan' is not a number"),
        ([URL, "--timeout", "inf"], "'inf' is not a number"),
        ([URL, "--header", "x"], "--header: 'x' is no header field"),
        ([URL, "--header", "X-A: b\r\nc: d"], "is no header field"),
        ([URL, "--header", "connection: close"], "connection is the clients' own business"),
        ([URL, "--upload-path", "up"], "--upload-path 'up': give a percent-encoded path"),
        ([URL, "--keep-alive", str(CLIENTS_MAX)], f"{CLIENTS_MAX + 10} clients"),
        ([URL, *NOBODY], "torture: 0 clients"),
    ],
)
def test_usage_errors_are_one_line(words: list[str], expected: str) -> None:
    with pytest.raises(OperatorError) as caught:
        read(words, {})
    assert expected in str(caught.value) and "\n" not in str(caught.value)
