"""Whether a value from a file is of the type that an annotation asks."""

import dataclasses
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlp_lightning.files.rules import is_number


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of type ``hint``; a dataclass may be given by its fields in a dict, as options are."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in inner)
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in inner)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(part, inner[1]) for part in value.values())
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        if isinstance(value, hint):  # type: ignore[arg-type]
            return all(fits(getattr(value, field.name), hints[field.name]) for field in dataclasses.fields(hint))
        return isinstance(value, dict) and all(name in hints and fits(value[name], hints[name]) for name in value)
    if hint is float:
        return is_number(value)
    return type(value) is (NoneType if hint is None else hint)
