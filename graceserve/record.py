"""Frozen dataclasses as JSON, for the dump of a re-exec and for other graceserve versions. Pure.

Fields are scalars and tuples of strings. A reader drops what it does not know and has a default for what is missing, so
that each of two versions can read the other's.
"""

from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar


class Record(Protocol):
    """A dataclass whose fields all have defaults."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


R = TypeVar("R", bound=Record)

_NAMES: dict[Any, dict[str, None]] = {}  # by record; `dataclasses.fields` looks for them each time


def names(cls: type[Record]) -> Collection[str]:
    """Of the fields, in order."""
    found = _NAMES.get(cls)
    if found is None:
        found = _NAMES[cls] = dict.fromkeys(field.name for field in fields(cls))
    return found


def dump(record: Record) -> dict[str, Any]:
    """A dictionary that `json.dumps` takes; tuples as lists."""
    values = {name: getattr(record, name) for name in names(type(record))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def load(cls: type[R], data: Mapping[str, Any]) -> R:
    """What `dump` gave, of this version or another."""
    known = names(cls)
    return cls(**{
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known
    })
