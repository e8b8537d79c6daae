"""The term of virtual adversarial training beside autograd's: its direction, its value and its gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.commands import check_oracle
from mlp_lightning.commands.check_gradients import ALLOWED
from mlp_lightning.commands.check_oracle import Gradients, KLTo
from mlp_lightning.commands.rounding import rounding_errors
from mlp_lightning.commands.verdict import Row, compare, worst
from mlp_lightning.data.loader import Batch
from mlp_lightning.nn.draws import Draws
from mlp_lightning.nn.virtual_adversarial import VirtualAdversary
from mlp_lightning.training.recipe import ADVERSARY


class AdversaryBeside:
    """Repeats the power iteration with autograd, and differentiates the term at our own r, which is a constant in it.

    A sample on which the network is certain has so small a gradient that rounding turns its direction. So directions
    are compared as gradients, each with the length of autograd's: what is hardly there can hardly be wrong.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.settings: dict[str, Any] = {
            name: default if options[name] is None else options[name] for name, default in ADVERSARY.items()
        }
        self._rows: list[list[Row]] = []

    def terms(
        self,
        adversary: VirtualAdversary,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        step: int,
        clean: Sequence[Gradients],
        kept: Sequence[Tensor | None],
    ) -> list[Gradients]:
        """Compare a step's r and mean KL, and differentiate the term as each of ``clean`` was, in its dtype.

        Args:
            adversary: as the step has left it.
            parameters: from before the step.
            batch: of the step.
            step: its number, counted from 0.
            clean: the oracle's results for the minibatch itself, float64 first.
            kept: which entries of each layer's input dropout keeps in this step.
        """
        r, size = adversary.r.to(torch.float64), len(batch.x)
        weight = self.options["vat"] / (size if self.options["reduction"] == "mean" else 1)
        terms = [
            check_oracle.gradients(parameters, adversary.x_r, _kl_to(found, weight), self.options, found.dtype, kept)
            for found in clean
        ]
        lengths = torch.linalg.vector_norm(r, dim=1)
        # Where the gradient is 0, as everywhere in a network of zeros, there is no step.
        wanted = torch.where(lengths > 0, self.settings["vat_eps"], 0.0).to(torch.float64)
        eps = torch.finfo(adversary.r.dtype).eps
        value = adversary.divergence.to(torch.float64) * weight
        expected = terms[0].values["loss"]
        allowed = ALLOWED * eps * rounding_errors(terms[0].trace)["loss"]
        self._rows.append(
            [
                self._direction(adversary, parameters, batch, step, clean[0], kept),
                compare("length of r", lengths, wanted, ALLOWED * eps * float(wanted.max())),
                compare("λ KL", value, expected, allowed),
            ]
        )
        return terms

    def _direction(
        self,
        adversary: VirtualAdversary,
        parameters: Mapping[str, Tensor],
        batch: Batch,
        step: int,
        clean: Gradients,
        kept: Sequence[Tensor | None],
    ) -> Row:
        """∇D(ξ d), with our direction and autograd's length, against autograd's."""
        draws = Draws(self.options["seed"], "vat")
        draws.start(step, len(batch.x))
        x, gradient = batch.x.to(torch.float64), draws.normal(batch.x.shape[1]).to(torch.float64)
        lengths = []
        for _ in range(self.settings["vat_iterations"]):
            x_d = x + adversary.xi * torch.nn.functional.normalize(gradient, eps=1e-300)
            found = check_oracle.gradients(parameters, x_d, _kl_to(clean, 1.0), self.options, torch.float64, kept)
            gradient = found.values["dx"]
            lengths.append(torch.linalg.vector_norm(gradient, dim=1, keepdim=True))
        # An error turns the next iteration's start the more, the shorter the gradient that it is an error of.
        growth = max(float((lengths[-1] / length).nan_to_num().max()) for length in lengths)
        allowed = ALLOWED * torch.finfo(adversary.r.dtype).eps * rounding_errors(found.trace)["dx"] * growth
        ours = adversary.r.to(torch.float64) / self.settings["vat_eps"] * lengths[-1]
        return compare("direction of r", ours, gradient, allowed)

    def rows(self) -> list[Row]:
        """The worst of all steps."""
        taken = len(self._rows)
        return [worst(rows, f"{rows[0].name}, steps 1–{taken}") for rows in zip(*self._rows, strict=True)]


def _kl_to(found: Gradients, weight: float) -> KLTo:
    return KLTo(torch.log_softmax(found.values["logits"], 1), weight)
