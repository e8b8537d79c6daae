"""What was written, read back and run beside our network."""

from pathlib import Path
from typing import NamedTuple

import torch

from mlp_lightning.commands.export.formats import Format
from mlp_lightning.commands.export.program import InputName
from mlp_lightning.commands.export.samples import random_samples
from mlp_lightning.errors import UserError
from mlp_lightning.files.atomic import written_beside
from mlp_lightning.predicting.model import Model

# Of the largest logit, or of 1: rounding grows with the logits.
TOLERANCE = 1e-5
# The logarithm of a smaller probability is one of rounding.
LEAST_PROBABILITY = 1e-30


class Proof(NamedTuple):
    """How the file's results and the network's differ on ``samples`` samples.

    ``difference`` is the largest one of probabilities, or of logits for weights alone. ``log_difference``, which must
    not pass ``allowed``, is that of log-probabilities, or of logits too: where a network is sure of every sample, its
    probabilities, all of them 0 or 1, would hide a wrong weight.
    """

    difference: float
    log_difference: float
    allowed: float
    samples: int

    @property
    def holds(self) -> bool:
        """Whether both compute the same; not so if anything is NaN."""
        return self.log_difference <= self.allowed


class MismatchError(Exception):
    """What was written computes something else."""

    def __init__(self, proof: Proof) -> None:
        super().__init__(
            "its log-probabilities or logits differ from the network's "
            f"by {proof.log_difference:.2g}, more than {proof.allowed:.2g}"
        )


def write_proven(model: Model, chosen: Format, given: InputName | None, output: Path) -> Proof:
    """Write a model, and let the file take its place once it has been proven.

    Raises:
        MismatchError: the file differs from the network.
        UserError: it cannot be written.
    """
    try:
        with written_beside(output) as temporary:
            chosen.write(model, given, temporary)
            proof = prove(model, chosen, given, temporary)
            if not proof.holds:
                raise MismatchError(proof)
            return proof
    except OSError as error:
        raise UserError(f"--output: {output} cannot be written: {error.strerror or error}") from error


def prove(model: Model, chosen: Format, given: InputName | None, path: Path) -> Proof:
    """Run all random samples at once, and the first one alone."""
    samples, x = random_samples(model, given)
    run = chosen.read(model, path)
    x = x.to(model.network.flat)
    logits = model.network(x)[0]
    inputs = samples if chosen.whole else x
    found = torch.cat([run(inputs), run(inputs[:1])])
    expected = torch.cat([logits, logits[:1]])
    allowed = TOLERANCE * max(1.0, float(logits.abs().max()))
    if not chosen.whole:
        difference = float((found - expected).abs().max())
        return Proof(difference, difference, allowed, len(x))
    expected = expected.softmax(1)
    difference = float((found - expected).abs().max())
    logs, expected_logs = (p.clamp(min=LEAST_PROBABILITY).log() for p in (found, expected))
    return Proof(difference, float((logs - expected_logs).abs().max()), allowed, len(x))
