"""Rules for values from a file that anyone may have written: each value has the type and range it must have.

``take`` copies what the rules know into plain dicts, lists and tensors. A dict or tensor from a pickle may carry
attributes of its own, which would stand in the place of its methods.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

LARGEST = 2**63 - 1
LONGEST_SHOWN = 60
DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


class Wrong(ValueError):
    """A value that breaks its rule; the message names it and says what is allowed."""


class Kind(NamedTuple):
    """A value by itself: ``words`` say what is allowed."""

    words: str
    holds: Callable[[Any], bool]


class Maybe(NamedTuple):
    """An entry of a dict that may be missing."""

    rule: Any


class OrNone(NamedTuple):
    """A value that may be None."""

    rule: Any


class Each(NamedTuple):
    """A dict whose values all follow one rule, with keys of type ``key``."""

    rule: Any
    key: type = str


class Choice(NamedTuple):
    """A dict whose entry ``by``, a text, chooses its rule."""

    by: str
    rules: dict[str, Any]


class ByClass(NamedTuple):
    """The states of callbacks: the name of each one's class chooses its rule; others are kept as they are."""

    rules: dict[str, Any]


class Others(NamedTuple):
    """A dict whose other entries are kept as they are."""

    rules: dict[str, Any]


class Plain(NamedTuple):
    """What a config may hold: numbers, texts, true, false, null, and lists and dicts of them, so deep."""

    depth: int = 4


class ListOf(NamedTuple):
    """A list or tuple whose items all follow one rule, ``length`` of them or any number; ``once``: none comes twice."""

    rule: Any
    length: int | None = None
    once: bool = False


# A plain dict is a rule too: names and the rules of their values. Other names are left out.
Rule = Kind | OrNone | Each | ListOf | Choice | ByClass | Others | Plain | dict[str, Any]


def take(value: Any, rule: Rule, name: str, most: int) -> Any:
    """A copy of ``value`` that holds only what ``rule`` allows; tensors share their memory.

    Args:
        value: what was read.
        rule: what it must be.
        name: what an error calls it.
        most: how many values there may be. A pickle of a few bytes can repeat one list without end.

    Raises:
        Wrong: a value breaks its rule.
    """
    return _Walk(most).take(value, rule, name)


class _Walk:
    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, value: Any, rule: Rule, name: str) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Wrong("it holds more values than its size allows")
        if isinstance(rule, Kind):
            # type() and not isinstance: a bool is no number here.
            if not rule.holds(value):
                raise Wrong(f"its {name} is {shown(value)}, must be {rule.words}")
            return Tensor.detach(value) if isinstance(value, Tensor) else value
        if isinstance(rule, Plain):
            return self._take_plain(value, rule, name)
        if isinstance(rule, OrNone):
            return None if value is None else self.take(value, rule.rule, name)
        if isinstance(rule, ListOf):
            if type(value) not in (list, tuple) or rule.length not in (None, len(value)):
                of = "" if rule.length is None else f" of {rule.length}"
                raise Wrong(f"its {name} is {shown(value)}, must be a list{of}")
            items = [self.take(item, rule.rule, f"{name}[{k}]") for k, item in enumerate(value)]
            if rule.once and len(set(items)) < len(items):
                raise Wrong(f"its {name} holds a value twice")
            return tuple(items) if type(value) is tuple else items
        if not isinstance(value, dict):
            raise Wrong(f"its {name} is {shown(value)}, must be values by name")
        if isinstance(rule, Each):
            return {self._key(k, rule.key, name): self.take(v, rule.rule, f"{name}.{k}") for k, v in dict.items(value)}
        found = {self._key(key, str, name): part for key, part in dict.items(value)}
        if isinstance(rule, ByClass):
            return {key: self._take_state(part, rule, key, name) for key, part in found.items()}
        if isinstance(rule, Choice):
            self.take(found.get(rule.by), one_of(*rule.rules), f"{name}.{rule.by}")
            return self.take(value, rule.rules[found[rule.by]], name)
        if isinstance(rule, Others):
            left = {key: part for key, part in found.items() if key not in rule.rules}
            return {**left, **self._take_record(found, rule.rules, name)}
        return self._take_record(found, rule, name)

    def _take_record(self, found: dict[str, Any], rule: dict[str, Any], name: str) -> dict[str, Any]:
        taken = {}
        for key, part in rule.items():
            if key in found:
                inner = part.rule if isinstance(part, Maybe) else part
                taken[key] = self.take(found[key], inner, f"{name}.{key}" if name else key)
            elif not isinstance(part, Maybe):
                raise Wrong(f"{f'its {name}' if name else 'it'} has no {key}")
        return taken

    def _take_state(self, state: Any, rule: ByClass, key: str, name: str) -> Any:
        # Lightning's keys are the name of the class, and options in braces.
        inner = rule.rules.get(key.partition("{")[0])
        if not isinstance(state, dict):
            raise Wrong(f"its {name}.{key} is {shown(state)}, must be values by name")
        return state if inner is None or not dict.__len__(state) else self.take(state, Others(inner), f"{name}.{key}")

    def _take_plain(self, value: Any, rule: Plain, name: str) -> Any:
        if value is None or type(value) is bool or is_number(value) or (type(value) is str and "\0" not in value):
            return value
        if type(value) in (list, tuple) and rule.depth:
            return self.take(value, ListOf(Plain(rule.depth - 1)), name)
        if isinstance(value, dict) and rule.depth:
            return self.take(value, Each(Plain(rule.depth - 1)), name)
        raise Wrong(f"its {name} is {shown(value)}, must be a value that a config may hold")

    @staticmethod
    def _key(key: Any, kind: type, name: str) -> Any:
        if type(key) is not kind:
            allowed = "text" if kind is str else "a whole number"
            raise Wrong(f"{f'its {name}' if name else 'it'} has a key {shown(key)}, must be {allowed}")
        return key


def shown(value: Any) -> str:
    """A value in an error's line, cut short; a tensor or a container by its kind only."""
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, dict | list | tuple | set | bytes | bytearray):
        return f"a {type(value).__name__}"
    if type(value) is int and abs(value) > LARGEST:
        return "a huge number"
    written = repr(value[: LONGEST_SHOWN + 1]) if type(value) is str else repr(value)
    return written if len(written) <= LONGEST_SHOWN else f"{written[: LONGEST_SHOWN - 1]}…"


def whole(low: int, high: int = LARGEST) -> Kind:
    """A whole number from ``low`` to ``high``."""
    words = f"a whole number from {low}" + ("" if high == LARGEST else f" to {high}")
    return Kind(words, lambda value: type(value) is int and low <= value <= high)


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold; infinities and NaN are floats too."""
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST)


def one_of(*values: Any) -> Kind:
    """One of a few texts."""
    return Kind(f"one of {', '.join(values)}", lambda value: type(value) is str and value in values)


def is_tensor(value: Any) -> bool:
    """Whether a value is a dense tensor of real numbers in the machine's memory that its own storage can fill."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    if value.dtype not in DTYPES or Tensor.is_neg(value) or value.is_nested:
        return False
    # A stride of 0 makes a tensor of any size from one number.
    return Tensor.numel(value) * value.itemsize <= Tensor.untyped_storage(value).nbytes()


TEXT = Kind("text", lambda value: type(value) is str)
FLAG = Kind("true or false", lambda value: type(value) is bool)
# More than any training counts, and few enough for products of two.
COUNT = whole(0, 10**12)
NUMBER = Kind("a number", is_number)
FINITE = Kind("a finite number", lambda value: is_number(value) and math.isfinite(value))
POSITIVE = Kind("a finite number above 0", lambda value: is_number(value) and 0 < value < math.inf)
PLAIN = Plain()
TENSOR = Kind("a tensor of real numbers", is_tensor)
REAL = Kind("a tensor of floating-point numbers", lambda value: is_tensor(value) and value.dtype.is_floating_point)
SCALAR = Kind("a single number as a tensor", lambda value: is_tensor(value) and value.ndim == 0)
