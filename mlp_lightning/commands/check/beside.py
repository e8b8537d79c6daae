"""Torch beside every step of a training: the same gradient, clipping and rule, compared step by step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from mlp_lightning.commands.check import oracle as check_oracle
from mlp_lightning.commands.check import oracle_rules as check_oracle_rules
from mlp_lightning.commands.check.adversary import AdversaryBeside
from mlp_lightning.commands.check.gradients import allowance, kept_entries, mixed_allowance, parameter_gradients
from mlp_lightning.commands.check.oracle import Gradients
from mlp_lightning.commands.check.oracle_mixup import mixed_targets
from mlp_lightning.commands.check.rounding import rounding_errors
from mlp_lightning.commands.check.sides import Oracles, Pass, on_our_sides, remark, watch
from mlp_lightning.commands.check.verdict import Row, compare, worst
from mlp_lightning.data.batches import Batch
from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.training.curves import Curves
from mlp_lightning.training.module import MLPModule


class Beside(pl.Callback):
    """Repeats every step with torch's means and compares.

    A step has three links: the gradient from weights and minibatch, clipped; the learning rate from the step's number;
    the new weights from old weights, gradient and learning rate. Each is compared for the same input, ours: a fault
    shows in its own link alone, and no rounding error grows from step to step, as it would between two trainings.
    """

    def __init__(
        self, network: MLP, options: Mapping[str, Any], steps: int, products: torch.dtype | None = None
    ) -> None:
        self.options, self.steps, self.products = options, steps, products
        self.parameters = {
            name: nn.Parameter(torch.empty_like(gradient, dtype=torch.float64), requires_grad=False)
            for name, gradient in parameter_gradients(network).items()
        }
        self.rule = check_oracle_rules.make_rule(list(self.parameters.values()), options)
        self.adversary = AdversaryBeside(options)
        self.rates: list[float] = []
        self.gradients: dict[str, list[Row]] = {name: [] for name in self.parameters}
        self.movements: dict[str, list[Row]] = {name: [] for name in self.parameters}
        self.running: dict[str, list[Row]] = {}
        # Of a weight, in the last step.
        self.roundings = 4.0
        # Units taken on our side of a kink, of how many.
        self.followed, self.units = 0, 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the passes of the steps from the first one on."""
        assert isinstance(pl_module, MLPModule)
        if not self.rates:
            self.passes = watch(pl_module.passes)
            if pl_module.adversary is not None:
                self.adversary.watch(pl_module.adversary)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the weights from before the step."""
        assert isinstance(pl_module, MLPModule)
        self.before = {name: value.clone() for name, value in pl_module.network.state_dict().items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Compare the step's gradient and movement."""
        assert isinstance(pl_module, MLPModule)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self._compare_gradient(pl_module, batch)
        self._compare_movement(pl_module, len(batch.x))
        # The curves refuse a number that is not finite; here a table shall show it.
        pl_module.curves = Curves()
        trainer.should_stop = len(self.rates) == self.steps

    def _compare_gradient(self, module: MLPModule, batch: Batch) -> None:
        targets = mixed_targets(batch, module.network.sizes[-1])
        masks = kept_entries(module.network, self.options, len(self.rates) - 1, len(batch.x))

        def oracle(dtype: torch.dtype, sides: Sequence[Tensor]) -> Gradients:
            return check_oracle.gradients(self.before, batch.x, targets, self.options, dtype, masks, sides)

        # Kernels make their passes out of sight: their units are taken to be where autograd has them in float32.
        (ours,) = self.passes or [Pass(batch.x, oracle(torch.float32, ()).sides)]
        self.passes.clear()
        dtype = self.products or module.network.flat.dtype
        found = on_our_sides(oracle, ours.sides, self.options["activation"], dtype)
        self.followed += found.followed
        self.units += sum(side.numel() for side in ours.sides)
        # In mixed precision, what all of autograd in that dtype makes of it.
        sides = ours.sides if ACTIVATIONS[self.options["activation"]].kink == "slope" else ()
        coarse = oracle(self.products, sides) if self.products else None
        tensors = [one.values for one in (found.exact, coarse or found.rough)]
        exact, rough = ({name: values[name].double() for name in self.parameters} for values in tensors)
        errors = rounding_errors(found.exact.trace)
        self._compare_running(module, found, errors, coarse)
        if module.adversary is not None:
            term = self.adversary.term(module.adversary, self.before, batch, len(self.rates) - 1, found, masks)
            term_errors = rounding_errors(term.exact.trace)
            errors = {name: error + term_errors[name] for name, error in errors.items()}
            for total, one in ((exact, term.exact), (rough, term.rough)):
                total.update({name: value + one.values[name] for name, value in total.items()})
        clipped, clipped_rough = (check_oracle_rules.clip(total, self.options) for total in (exact, rough))
        for name, gradient in parameter_gradients(module.network).items():
            expected = clipped[name]
            if coarse is not None:
                allowed = mixed_allowance(expected, clipped_rough[name], coarse.dtype)
            else:
                # Clipping shortens errors along with what they are errors of; zeros do not tell by how much.
                kept = float((expected / exact[name]).nan_to_num().abs().max()) or 1.0
                allowed = allowance(expected, clipped_rough[name], errors[name] * kept, dtype)
            self.gradients[name].append(compare(name, gradient, expected, allowed))

    def _compare_running(
        self, module: MLPModule, found: Oracles, errors: Mapping[str, float], coarse: Gradients | None
    ) -> None:
        """Batch norm's running statistics against those that torch's own make of the minibatch."""
        after = module.network.state_dict()
        for name, expected in found.exact.running.items():
            if coarse is not None:
                allowed = mixed_allowance(expected, coarse.running[name], coarse.dtype)
            else:
                allowed = allowance(expected, found.rough.running[name], errors[name], after[name].dtype)
            self.running.setdefault(name, []).append(compare(name, after[name], expected, allowed))

    def _compare_movement(self, module: MLPModule, rows: int) -> None:
        """θ_t − θ_{t−1} rather than θ_t, in which a wrong step of 10⁻⁶ would hide behind a weight of 1.

        Allowed are four roundings of each weight, which no update can avoid, and where the update is made inside the
        product of B samples √B more, since the product may add them to the weight one after another. Allowed too are
        (64 + √P) eps of the largest movement: 64 for the handful of operations on states that have gone through 20
        steps, √P for a second moment or norm summed over all P weights; for Muon as many more as its polynomials
        multiply an error in a weak direction. Where
        the gradient's rank is less than its sides, such a direction holds nothing but the rounding of a unit length by
        our products, and by the oracle's singular vectors in float64: as many eps of what Muon makes of that length are
        allowed, and as many times three eps of float64. The smallest normal number bounds what underflow takes.
        Where rounding decides the sign of a step of Lion, two of its steps are allowed.
        """
        gradient = parameter_gradients(module.network)
        for name, parameter in self.parameters.items():
            parameter.data = self.before[name].to(torch.float64, copy=True)
            parameter.grad = gradient[name].to(torch.float64)
        for group in self.rule.param_groups:
            group["lr"] = self.rates[-1]
        self.rule.step()
        check_oracle_rules.constrain(self.parameters, self.options, self.rates[-1])
        eps, tiny = torch.finfo(module.network.flat.dtype).eps, torch.finfo(module.network.flat.dtype).tiny
        amplification = check_oracle_rules.amplification(self.options)
        operations = 64 + math.sqrt(module.network.flat.numel()) + amplification
        state = module.network.state_dict()
        self.roundings = 4 + (math.sqrt(rows) if module.engine.is_fused else 0)
        for name in self.parameters:
            after, start = state[name], self.before[name].to(torch.float64)
            expected = self.parameters[name].detach() - start
            weak = amplification * check_oracle_rules.unit_movement(start, self.rates[-1])
            allowed = eps * (self.roundings * start.abs() + operations * (expected.abs().max() + tiny))
            allowed += (eps + 3 * torch.finfo(torch.float64).eps) * weak
            allowed += check_oracle_rules.sign_allowance(self.rule, self.parameters[name], self.rates[-1], eps)
            self.movements[name].append(compare(name, after.to(torch.float64) - start, expected, allowed))

    @property
    def remark(self) -> str:
        """For the table's caption: how many units were taken on our side of a kink."""
        return remark(self.options, self.followed + self.adversary.followed, self.units + self.adversary.units)

    def rows(self) -> list[Row]:
        """For every tensor the worst of all gradients, the first movement, and the worst of the later ones."""
        taken = len(self.rates)
        found = [worst(rows, f"gradient of {name}, steps 1–{taken}") for name, rows in self.gradients.items()]
        found += [worst(rows, f"{name}, steps 1–{taken}") for name, rows in self.running.items()]
        # Muon's own products are rounded too, and what its polynomials make of that is proved in float32.
        movements = {} if self.products and self.options["optimizer"] == "muon" else self.movements
        for name, rows in movements.items():
            found.append(rows[0]._replace(name=f"{name}, step 1"))
            if taken > 1:
                found.append(worst(rows[1:], f"{name}, steps 2–{taken}"))
        # The adversary's own tensors are proved in float32: in fewer bits its trial step is too coarse.
        return found if self.products else self.adversary.rows() + found
