"""What a walk's update does to the weights after the rule: the L1 penalty and the bound on the rows' lengths."""

import torch

from mlp_lightning.commands.explain.step import Step, moved, number, shape, source_of
from mlp_lightning.nn import MLP
from mlp_lightning.optim.l1 import soft_threshold_
from mlp_lightning.optim.max_norm import max_norm_


def constraint_steps(network: MLP, lr: float, l1: float, max_norm: float | None) -> list[Step]:
    """What follows the rule, in place, as in training: first the L1 penalty, then the rows' lengths."""
    steps = []
    weights = network.flat.detach()[: network.weight_numel]
    if l1:
        soft_threshold_(weights, lr * l1, torch.empty_like(weights))
        zeros = int((weights == 0).sum())
        steps.append(
            Step(
                phase="update",
                name="W",
                formula="W ← sign(W) · max(|W| − η λ₁, 0),  the L1 penalty on all weights",
                shapes=f"{shape(weights)} → {shape(weights)}",
                value=weights.clone(),
                source=source_of(soft_threshold_),
                bytes=2 * moved(weights),
                numbers=f"η λ₁ = {number(lr)} · {number(l1)}:  {zeros:,} of {weights.numel():,} weights are 0",
            )
        )
    if max_norm is not None:
        norms = torch.cat([torch.linalg.vector_norm(layer.weight, dim=1) for layer in network.layers])
        beyond = int((norms > max_norm).sum())
        for layer in network.layers:
            max_norm_(layer.weight, max_norm)
        steps.append(
            Step(
                phase="update",
                name="W",
                formula="w ← w · min(1, c / ‖w‖),  w the weights into a unit, a row of a W",
                shapes=f"{shape(weights)} → {shape(weights)}",
                value=weights.clone(),
                source=source_of(max_norm_),
                # Once for the norms, once to scale.
                bytes=3 * moved(weights),
                numbers=f"c = {number(max_norm)}:  {beyond:,} of {len(norms):,} units were beyond",
            )
        )
    return steps
