"""Frozen dataclasses as JSON, for the dump of a re-exec and for other graceserve versions. Pure.

Fields are scalars and tuples of strings. A reader drops what it does not know and has a default for what is missing, so
that each of two versions can read the other's.
"""

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar


class Record(Protocol):
    """A dataclass whose fields all have defaults."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


R = TypeVar("R", bound=Record)


def dump(record: Record) -> dict[str, Any]:
    """A dictionary that `json.dumps` takes; tuples as lists."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def load(cls: type[R], data: Mapping[str, Any]) -> R:
    """What `dump` gave, of this version or another."""
    known = {field.name for field in fields(cls)}
    return cls(**{
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known
    })
