"""An epoch of the notebook's per-sample method against ``fit --config relu.yaml``, which reproduces its experiment.

    python benchmarks/notebook.py [--rounds 3]

The notebook's method, from its equations: one sample at a time goes forward and backward as vectors; each layer's outer
product δ aᵀ is added to the minibatch's sum; one SGD step a minibatch; then the minibatch's last 30 % are evaluated,
one at a time as well. It is written here with torch's vectors. Some hundred images are timed and scaled up to the epoch
of 60,000, since every image costs the same; ``fit`` runs a whole epoch, progress bar and logging on. With the same
first weights, both reach the same weights after these images: that is checked before anything is timed.
"""

import time

import torch
from networks import NOTEBOOK, hand_network
from peers.fit_command import fit
from results import Benchmark
from timing import in_turn, ratio, spread
from torch import Tensor

from mlp_lightning.data import Batches, load_dataset, train_share
from mlp_lightning.nn import SoftmaxCrossEntropy

LR, BATCH_SIZE, IMAGES = 0.01, 64, 60_000
FIT = "fit --config relu.yaml"
MIXED = "the same, bf16-mixed"

Weights = list[tuple[Tensor, Tensor]]


def forward(weights: Weights, x: Tensor) -> list[Tensor]:
    """a_0 = x, …, a_L = softmax(z_L), of one sample."""
    activations = [x]
    for weight, bias in weights[:-1]:
        activations.append(torch.relu(weight @ activations[-1] + bias))
    weight, bias = weights[-1]
    activations.append(torch.softmax(weight @ activations[-1] + bias, 0))
    return activations


def sample_by_sample(weights: Weights, x: Tensor, y: Tensor) -> float:
    """Train on images in their order, minibatch by minibatch; returns the mean loss of those that validate."""
    losses = []
    for start in range(0, len(x), BATCH_SIZE):
        batch_x, batch_y = x[start : start + BATCH_SIZE], y[start : start + BATCH_SIZE].tolist()
        trains = train_share(len(batch_x))
        sums = [(torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in weights]
        for image, target in zip(batch_x[:trains], batch_y[:trains], strict=True):
            activations = forward(weights, image)
            delta = activations[-1].clone()
            delta[target] -= 1
            for k in range(len(weights) - 1, -1, -1):
                dweight, dbias = sums[k]
                dweight += torch.outer(delta, activations[k])
                dbias += delta
                if k > 0:
                    delta = (weights[k][0].T @ delta) * (activations[k] > 0)
        for (weight, bias), (dweight, dbias) in zip(weights, sums, strict=True):
            weight -= LR * dweight
            bias -= LR * dbias
        for image, target in zip(batch_x[trains:], batch_y[trains:], strict=True):
            losses.append(-torch.log(forward(weights, image)[-1][target]))
    return torch.stack(losses).mean().item()


def check(x: Tensor, y: Tensor) -> float:
    """The largest difference between its weights and those of whole minibatches; raises if that is no rounding."""
    network, loss = hand_network(NOTEBOOK), SoftmaxCrossEntropy("sum")
    weights = [(layer.weight.clone(), layer.bias.clone()) for layer in network.layers]
    sample_by_sample(weights, x, y)
    for batch in Batches(x, y, BATCH_SIZE, per_batch=True):
        logits, cache = network(batch.x)
        network.backward(loss.backward(loss.forward(logits, batch.y)[1]), cache)
        network.flat.add_(network.flat_grad, alpha=-LR)
    difference = max(
        (w - layer.weight).abs().max().item() for (w, _), layer in zip(weights, network.layers, strict=True)
    )
    if difference > 1e-3:
        raise AssertionError(f"the per-sample weights differ by {difference}")
    return difference


def fit_epoch(precision: str) -> float:
    """Seconds of the steps of one epoch, the validation within each minibatch included."""
    options = {"config": "relu.yaml", "test": "never", "trainer.max_epochs": 1, "trainer.precision": precision}
    return fit(options)["train_seconds"]


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=3)
    benchmark.parser.add_argument("--images", type=int, default=640, help="timed one by one, in each round")
    options = benchmark.start()
    options.images = 128 if options.quick else options.images
    data = load_dataset("mnist", None)
    x, y = data.train_x[: options.images], data.train_y[: options.images]
    print(f"largest difference of weights after {options.images} images: {check(x, y):.1e}")
    weights = [(layer.weight, layer.bias) for layer in hand_network(NOTEBOOK).layers]

    def scaled() -> float:
        start = time.perf_counter()
        sample_by_sample(weights, x, y)
        return (time.perf_counter() - start) * IMAGES / options.images

    names = {"sample by sample": scaled, FIT: lambda: fit_epoch("32-true"), MIXED: lambda: fit_epoch("bf16-mixed")}
    seconds = in_turn(names, options.rounds, benchmark.calm)
    for name, values in seconds.items():
        over = ratio(values, seconds[FIT])
        scale = f", {options.images} images scaled to {IMAGES}" if name == "sample by sample" else ""
        line = f"  {name:24} {spread(values).median:7.2f} s an epoch, ratio {over}{scale}"
        benchmark.row(line, name=name, seconds=values, ratio=over, images=options.images)
    benchmark.finish()


if __name__ == "__main__":
    run()
