"""Options and state dicts under torch's names: what is taken from them, and what is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

# Options of torch's optimizers that no rule here takes: left in a group, they would be ignored.
FOREIGN = ("maximize", "foreach", "fused", "capturable", "differentiable")
# Those that change the result; a state dict may have the others.
CHANGING = ("maximize", "differentiable")
NUMBERS = ("step", "momentum_product")


def with_betas(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A group's options with ``betas``, where torch's schedulers look for it, in place of ``beta1`` and ``beta2``."""
    if "betas" not in defaults or not {"beta1", "beta2"} & set(group):
        return dict(group)
    pair = tuple(group.get(name, beta) for name, beta in zip(("beta1", "beta2"), defaults["betas"], strict=True))
    return {**{name: value for name, value in group.items() if name not in ("beta1", "beta2")}, "betas": pair}


def refuse_foreign_options(group: Mapping[str, Any], names: Sequence[str] = FOREIGN) -> None:
    """Raise ValueError for an option of torch that is switched on in a group, and that no rule here takes."""
    for name in names:
        if group.get(name):
            raise ValueError(f"{name} must be left out, got {group[name]!r}: the update rules do not take it")


def refuse_parameters(params: Sequence[Tensor]) -> None:
    """Raise ValueError for tensors that are not real floating-point numbers."""
    for parameter in params:
        if not parameter.is_floating_point():
            raise ValueError(f"params must be real floating-point tensors, got {parameter.dtype}")


def check_state(rule: str, state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError where a state dict holds, for one tensor, what a rule does not keep.

    Args:
        rule: its name.
        state: of one tensor.
        shapes: what the rule keeps, and in which shape; () for one number.
    """
    unknown = [str(name) for name in state if name not in shapes]
    if unknown:
        raise ValueError(
            f"the state dict is of another optimizer: {rule} keeps {', '.join(shapes)}, got {', '.join(unknown)}"
        )
    for name, value in state.items():
        if name in NUMBERS:
            if not isinstance(value, int | float):
                raise ValueError(f"the state dict's {name} must be a number, got {type(value).__name__}")
        elif not isinstance(value, Tensor):
            raise ValueError(f"the state dict's {name} must be a tensor, got {type(value).__name__}")
        elif tuple(value.shape) != shapes[name]:
            raise ValueError(f"the state dict's {name} must have the shape {shapes[name]}, got {tuple(value.shape)}")
