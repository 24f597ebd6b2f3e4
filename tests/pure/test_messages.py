"""Messages: what is said is heard, also between versions."""

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceserve.errors import WireError
from graceserve.wire import messages as m

CLASSES = [cls for cls in m.Message.__args__ if cls is not m.Unknown]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**53), 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "str": st.text(max_size=50),
    "bool": st.booleans(),
    "tuple": st.lists(st.text(max_size=20), max_size=4).map(tuple),
    "dict": st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9) | st.none(), max_size=4),
}


def of_class(cls: type[Any]) -> st.SearchStrategy[Any]:
    kinds = {f.name: str(getattr(f.type, "__name__", f.type)).split("[")[0] for f in fields(cls)}
    return st.builds(cls, **{name: VALUES[kind] for name, kind in kinds.items()})


@given(st.one_of([of_class(cls) for cls in CLASSES]))
def test_round_trip(message: m.Message) -> None:
    assert m.decode(m.encode(message)) == message


@pytest.mark.parametrize("cls", CLASSES)
def test_an_older_sender_leaves_fields_out(cls: type[Any]) -> None:
    assert m.decode(json.dumps([0, cls.__name__, {}]).encode()) == cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_newer_sender_adds_fields(cls: type[Any]) -> None:
    assert m.decode(json.dumps([9, cls.__name__, {"from_the_future": [1, 2]}]).encode()) == cls()


def test_an_unknown_name_is_no_error() -> None:
    assert m.decode(b'[7,"Teleport",{"to":"mars"}]') == m.Unknown("Teleport")


NOISE = [b"", b"x", b"{}", b"[1]", b'[1,"Ping"]', b'[1,"Ping",[]]', b'["1","Ping",{}]', b"\xff\xfe", b"null"]


@pytest.mark.parametrize("data", NOISE)
def test_noise_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        m.decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    try:
        m.decode(data)
    except WireError:
        pass


def test_too_large_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="over"):
        m.encode(m.WorkerFailed("x" * m.MESSAGE_BYTES_MAX))


@pytest.mark.parametrize("char", ["a", "\0", "é", "\U0001f600", "\ud800"])
def test_the_longest_verdict_fits(char: str) -> None:
    """Whatever an app raises reaches the operator: a verdict that is too long would be lost."""
    reason, detail = m.line(f"importing app: ValueError: {char * 10_000}"), m.tail(char * 100_000)
    assert "\n" not in reason
    assert m.decode(m.encode(m.Told("failed", 1, "current -> releases/42", reason, detail))) == m.Told(
        "failed", 1, "current -> releases/42", reason, detail
    )


def test_tail_keeps_the_end_of_a_traceback() -> None:
    text = "a" * m.DETAIL_CHARS_MAX + "ValueError: the cause"
    assert m.tail("short") == "short"
    assert m.tail(text).endswith("ValueError: the cause")
    assert len(m.tail(text)) == m.DETAIL_CHARS_MAX
