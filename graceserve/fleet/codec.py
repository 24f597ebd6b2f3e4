"""Records to JSON-able dicts and back, driven by their annotations. Pure; runs in the master.

Loading is tolerant, because master and dump may be of different graceserve versions: an unknown key is dropped, a
missing one (or an enum value that this version does not know) takes the field's default.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from graceserve.wire.messages import Json

T = TypeVar("T")
SCALARS = (NoneType, bool, int, float, str)

_LOADERS: dict[Any, dict[str, Callable[[Any], Any]]] = {}  # by record; resolving annotations is slow


def dump(value: Any) -> Json:
    """A record, enum, tuple, dict with int keys, or scalar."""
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, Enum):
        return dump(value.value)
    if isinstance(value, dict):
        return {str(key): dump(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [dump(item) for item in value]
    return {name: dump(getattr(value, name)) for name in _loaders(type(value))}


def load(cls: type[T], data: Json) -> T:
    """The record that `data` describes. `cls` has a default for every field."""
    values: dict[str, Any] = {}
    known = data if isinstance(data, dict) else {}
    for name, loader in _loaders(cls).items():
        if name in known:
            try:
                values[name] = loader(known[name])
            except ValueError:  # an enum value of another version
                continue
    return cls(**values)


def _loaders(cls: Any) -> dict[str, Callable[[Any], Any]]:
    if cls not in _LOADERS:
        hints = get_type_hints(cls)
        _LOADERS[cls] = {field.name: _loader(hints[field.name]) for field in fields(cls)}
    return _LOADERS[cls]


def _loader(hint: Any) -> Callable[[Any], Any]:
    """A function from JSON to a value of the annotation."""
    origin, arms = get_origin(hint), get_args(hint)
    if origin is UnionType:  # only `X | None`
        inner = _loader(next(arm for arm in arms if arm is not type(None)))
        return lambda data: None if data is None else inner(data)
    if origin is tuple:  # only `tuple[X, ...]`
        item = _loader(arms[0])
        return lambda data: tuple(item(one) for one in data)
    if origin is dict:  # only int keys
        value = _loader(arms[1])
        return lambda data: {int(key): value(one) for key, one in data.items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda data: load(hint, data)
    return lambda data: data
