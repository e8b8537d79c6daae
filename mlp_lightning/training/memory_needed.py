"""The memory that a training will take, as far as its options tell, counted before it is taken."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mlp_lightning.errors import UserError
from mlp_lightning.memory import machine_memory

# Bytes of a parameter; 4 for other precisions.
SIZES = {"64-true": 8, "bf16-true": 2}


class Setting(NamedTuple):
    """How a training runs, as far as its memory goes.

    Args:
        state: numbers that the optimizer keeps for each parameter in one process.
        rows: samples of a minibatch in one process.
        held: bytes of the data, which are in memory already.
        precision: ``trainer.precision``.
        device: where it all is.
    """

    state: float = 0
    rows: int = 0
    held: int = 0
    precision: str = "32-true"
    device: torch.device = torch.device("cpu")

    @property
    def memory(self) -> int | None:
        """Bytes there are; None where nobody tells."""
        if self.device.type == "cuda":
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return machine_memory()


def check_memory(options: Mapping[str, Any], sizes: Sequence[int], setting: Setting) -> None:
    """Refuse a training that cannot fit: weights, gradient, optimizer's state, averages, a minibatch, the data.

    Args:
        options: those of the model.
        sizes: the width of the input, of each hidden layer and of the output.
        setting: how it runs.

    Raises:
        UserError: it takes more than there is; names the option that takes most.
    """
    memory = setting.memory
    of_parameters, of_rows = parameter_bytes(options, sizes, setting), row_bytes(sizes, setting)
    if memory is None or of_parameters + of_rows + setting.held <= memory:
        return
    beside = f" beside {setting.held / 1e9:,.1f} GB of data" if setting.held > memory / 20 else ""
    limit = f"{beside}, must fit in this machine's memory of {memory / 1e9:,.1f} GB"
    if of_rows > of_parameters:
        raise UserError(
            f"data.batch_size: got {setting.rows} samples for a process, which take {of_rows / 1e9:,.1f} GB in all "
            f"layers{limit}"
        )
    raise UserError(
        f"model.hidden: got {options['hidden']}, whose weights and gradients, with averages and the state of "
        f"{options['optimizer']}, take {of_parameters / 1e9:,.1f} GB{limit}"
    )


def parameter_bytes(options: Mapping[str, Any], sizes: Sequence[int], setting: Setting) -> int:
    """Bytes of all that has an entry for each parameter: weight, gradient, state, average, copy to multiply with."""
    count = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    # The averaged network has memory for a gradient too.
    averages = 2 * (options["averaging"] != "none")
    # Weights and gradient once more, in 16 bits.
    mixed = 4 if setting.precision.endswith("-mixed") else 0
    return int(count * (SIZES.get(setting.precision, 4) * (2 + setting.state + averages) + mixed))


def row_bytes(sizes: Sequence[int], setting: Setting) -> int:
    """Bytes of a minibatch: its input, the next one's and what they are made of; outputs and gradients of layers."""
    return setting.rows * SIZES.get(setting.precision, 4) * (3 * sizes[0] + 2 * sum(sizes[1:]))


def states_kept(rule: torch.optim.Optimizer) -> int:
    """How many numbers a rule keeps for each parameter, as one step on a tensor of one number shows."""
    (parameter,) = rule.param_groups[0]["params"]
    parameter.grad = torch.zeros_like(parameter)
    rule.step()
    state = rule.state[parameter].values()
    return sum(isinstance(kept, torch.Tensor) and kept.shape == parameter.shape for kept in state)
