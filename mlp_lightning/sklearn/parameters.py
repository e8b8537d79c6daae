"""Parameters of an estimator: this project's options, with scikit-learn's names for those that mean the same."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.errors import UserError
from mlp_lightning.optim import OPTIMIZERS

# scikit-learn's names, ours, and our defaults. Both default to None, so that one that is given is known to be.
ALIASES: dict[str, tuple[str, Any]] = {
    "hidden_layer_sizes": ("hidden", (100,)),
    "learning_rate_init": ("lr", 0.001),
    "max_iter": ("epochs", 100),
    "alpha": ("weight_decay", None),
}
# Options of a training that an estimator never has.
FIXED = {"shard_optimizer": False, "overlap_reduction": False}
# Those that a regressor does without.
OF_CLASSES = {
    "loss": "mse",
    "label_smoothing": 0.0,
    "class_weights": None,
    "vat": 0.0,
    "vat_eps": None,
    "vat_xi": None,
    "vat_iterations": None,
}
# Options of the model by another name, since scikit-learn's has their own.
RENAMED = {"rmsprop_alpha": "alpha"}


def resolved(given: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The options that the parameters of an estimator stand for.

    scikit-learn adds alpha/2 ‖W‖² to the sum of a minibatch's losses and divides by its samples. That is a
    ``weight_decay`` of alpha / batch_size, without the biases.

    Args:
        given: the parameters.
        rows: of the training, which a minibatch does not exceed.

    Raises:
        UserError: a parameter is given by both names, or is of another type.
    """
    options = dict(given)
    for alias, (name, default) in ALIASES.items():
        value = options.pop(alias)
        if value is None:
            value = default if options[name] is None else options[name]
        elif options[name] is not None:
            raise UserError(f"{alias}: got {value}, but {name} is {options[name]}: they are one option, give one")
        elif alias == "alpha":
            value = _decay(value, options, rows)
        options[name] = value
    options["hidden"] = _widths(options["hidden"])
    for name in ("epochs", "batch_size", "patience"):
        value = options[name]
        if not (name == "patience" and value is None) and not (_is_integer(value) and value >= 1):
            raise UserError(f"{name}: got {value!r}, must be a whole number of at least 1")
    return OF_CLASSES | {RENAMED.get(name, name): value for name, value in options.items()} | FIXED


def _decay(alpha: float, options: dict[str, Any], rows: int) -> float | None:
    if not 0 <= alpha < float("inf"):
        raise UserError(f"alpha: got {alpha}, must be zero or more and finite")
    if OPTIMIZERS[options["optimizer"]].decouples_decay:
        raise UserError(f"alpha: got {alpha}, but {options['optimizer']} decouples its decay; use weight_decay")
    if alpha == 0:
        return None
    if options["decay_biases"] is None:
        options["decay_biases"] = False
    return alpha / min(options["batch_size"], rows)


def _widths(hidden: Any) -> list[int]:
    # scikit-learn takes one width for a list of it.
    widths = [hidden] if _is_integer(hidden) else list(hidden)
    if not all(_is_integer(width) for width in widths):
        raise UserError(f"hidden: got {hidden}, must be whole numbers")
    return [int(width) for width in widths]


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@contextmanager
def named_as_parameters() -> Iterator[None]:
    """Name options in errors as parameters: without the group of the command line."""
    try:
        yield
    except NotFinite as error:
        raise ValueError(f"{error.cause}; try a smaller lr or clip_norm") from error
    except UserError as error:
        raise ValueError(re.sub(r"\b(model|data|trainer)\.(?=[a-z])", "", str(error))) from error
