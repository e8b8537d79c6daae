"""What looking for NaN and infinity costs: a training step with the look over one without it, one thread.

    python benchmarks/finiteness.py [--rounds 200] [--steps 20]

Both take turns in one process, on the same minibatches and the same weights. Processor time is counted, not wall time:
with one thread they are the same on an idle machine, and on a busy one the ratio still holds.
"""

import argparse
import statistics
import time
from itertools import cycle

import torch
from machine import machine
from networks import NOTEBOOK, digits, hand_network

from mlp_lightning.data import Batches
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.choice import choose
from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.finiteness import Finiteness
from mlp_lightning.engines.recipe import Nonfinite, StepRecipe
from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.nn.losses import Reduction
from mlp_lightning.optim import SGD, Adam

# As relu.yaml trains, on 45 of each minibatch's 64 samples, and as adam.yaml does.
CASES = {"SGD, relu.yaml": (SGD, 0.01, "sum", 45), "Adam, adam.yaml": (Adam, 0.001, "mean", 128)}


def steps(rule: type[SGD] | type[Adam], lr: float, reduction: Reduction, nonfinite: Nonfinite) -> Engine:
    network = hand_network(NOTEBOOK)
    recipe = StepRecipe(
        network=network,
        loss=SoftmaxCrossEntropy("sum"),
        rule=rule([network.flat], lr=lr),
        reduction=reduction,
        nonfinite="skip" if nonfinite == "skip" else "stop",
    )
    engine = choose(recipe).engine
    # Not by the recipe: an engine may choose other passes for one that ignores.
    engine.finiteness = Finiteness(engine.passes, nonfinite=nonfinite)
    return engine


def seconds(step: Engine, batches: list[Batch], lr: float) -> float:
    start = time.process_time()
    for batch in batches:
        step(batch, lr, keep_gradient=False)
    return time.process_time() - start


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20, help="steps at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    print(f"{machine()}\nrounds: {options.rounds}, each of {options.steps} steps\n")
    for name, (rule, lr, reduction, batch_size) in CASES.items():
        every = cycle(Batches(data.train_x, data.train_y, batch_size=batch_size))
        rows: dict[str, list[float]] = {"without": [], "with": [], "with, to skip": []}
        with torch.inference_mode():
            kinds = {
                "without": steps(rule, lr, reduction, "ignore"),
                "with": steps(rule, lr, reduction, "stop"),
                "with, to skip": steps(rule, lr, reduction, "skip"),
            }
            for _ in range(options.rounds):
                batches = [next(every) for _ in range(options.steps)]
                for kind, step in kinds.items():
                    rows[kind].append(seconds(step, batches, lr))
        base = statistics.median(rows["without"])
        for kind, values in rows.items():
            median = statistics.median(values)
            print(f"{name}, {kind}: {median / options.steps * 1e3:.3f} ms a step, ratio {median / base:.3f}")


if __name__ == "__main__":
    run()
