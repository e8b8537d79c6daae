"""The term of virtual adversarial training beside autograd's: its direction, its value and its gradients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.commands.check import oracle as check_oracle
from mlp_lightning.commands.check.oracle import Gradients, KLTo
from mlp_lightning.commands.check.rounding import ALLOWED, rounding_errors
from mlp_lightning.commands.check.sides import Oracles, Pass, on_our_sides, watch
from mlp_lightning.commands.check.verdict import Row, compare, worst
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.nn.draws import Draws
from mlp_lightning.training.options import ADVERSARY


class AdversaryBeside:
    """Repeats the power iteration with autograd, and differentiates the term at our own r, which is a constant in it.

    Every pass is compared for the same input, ours: a step of ξ in float32 loses digits of its direction, which no
    right computation of what follows could give back.

    A sample on which the network is certain has so small a gradient that rounding turns its direction. So directions
    are compared as gradients, each with the length of autograd's: what is hardly there can hardly be wrong.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.settings: dict[str, Any] = {
            name: default if options[name] is None else options[name] for name, default in ADVERSARY.items()
        }
        # Units taken on our side of a kink, of how many.
        self.followed, self.units = 0, 0
        self._rows: list[list[Row]] = []

    def watch(self, adversary: VirtualAdversary) -> None:
        """Note the passes of the adversary's steps from now on."""
        self._passes = watch(adversary.passes)

    def term(
        self,
        adversary: VirtualAdversary,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        step: int,
        clean: Oracles,
        kept: Sequence[Tensor | None],
    ) -> Oracles:
        """Compare a step's r and mean KL, and differentiate the term.

        Args:
            adversary: as the step has left it.
            parameters: from before the step.
            batch: of the step.
            step: its number, counted from 0.
            clean: the oracles of the minibatch itself.
            kept: which entries of each layer's input dropout keeps in this step.
        """
        *trials, last = self._passes
        self._passes.clear()
        self.parameters, self.kept = parameters, kept
        r, size = adversary.r.to(torch.float64), len(batch.x)
        weight = self.options["vat"] / (size if self.options["reduction"] == "mean" else 1)
        term = self._oracles(last, clean, weight)
        lengths = torch.linalg.vector_norm(r, dim=1)
        # Where the gradient is 0, as everywhere in a network of zeros, there is no step.
        wanted = torch.where(lengths > 0, self.settings["vat_eps"], 0.0).to(torch.float64)
        eps = torch.finfo(adversary.r.dtype).eps
        value = adversary.divergence.to(torch.float64) * weight
        allowed = ALLOWED * eps * rounding_errors(term.exact.trace)["loss"]
        self._rows.append(
            [
                self._direction(adversary, batch, step, clean, trials),
                compare("length of r", lengths, wanted, (ALLOWED + math.sqrt(r.shape[1])) * eps * float(wanted.max())),
                compare("λ KL", value, term.exact.values["loss"], allowed),
            ]
        )
        return term

    def _oracles(self, one: Pass, clean: Oracles, weight: float) -> Oracles:
        """The KL divergence at the input of one of our passes."""

        def oracle(dtype: torch.dtype, sides: Sequence[Tensor]) -> Gradients:
            found = clean.exact if dtype == torch.float64 else clean.rough
            near_to = KLTo(torch.log_softmax(found.values["logits"], 1), weight)
            return check_oracle.gradients(self.parameters, one.x, near_to, self.options, dtype, self.kept, sides)

        found = on_our_sides(oracle, one.sides, self.options["activation"], one.x.dtype)
        self.followed += found.followed
        self.units += sum(side.numel() for side in one.sides)
        return found

    def _direction(
        self, adversary: VirtualAdversary, batch: Batch, step: int, clean: Oracles, trials: Sequence[Pass]
    ) -> Row:
        """Each direction against autograd's gradient at the trial step before it, the first against the draws."""
        eps = torch.finfo(adversary.r.dtype).eps
        draws = Draws(self.options["seed"], "vat")
        draws.start(step, len(batch.x))
        x, gradient = batch.x.to(torch.float64), draws.normal(batch.x.shape[1]).to(torch.float64)
        rows, allowed = [], 0.0
        for trial in trials:
            lengths = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            ours = (trial.x.to(torch.float64) - x) / adversary.xi * lengths
            # x + ξ d is rounded as x is.
            lost = 4 * eps * float((1 + trial.x.abs().max() / adversary.xi) * lengths.max())
            rows.append(compare("direction of r", ours, gradient, allowed + lost))
            found = self._oracles(trial, clean, 1.0).exact
            gradient = found.values["dx"]
            allowed = ALLOWED * eps * rounding_errors(found.trace)["dx"]
        lengths = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        ours = adversary.r.to(torch.float64) / self.settings["vat_eps"] * lengths
        rows.append(compare("direction of r", ours, gradient, allowed))
        return worst(rows, "direction of r")

    def rows(self) -> list[Row]:
        """The worst of all steps."""
        taken = len(self._rows)
        return [worst(rows, f"{rows[0].name}, steps 1–{taken}") for rows in zip(*self._rows, strict=True)]
