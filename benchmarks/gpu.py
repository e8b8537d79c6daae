"""On a GPU: steps of ``fit`` as it groups them, beside autograd, and ``fit`` itself.

    python benchmarks/gpu.py [--rounds 15] [--device cuda]

784-500-250-100-10 at batch 64, and 784-2500-2000-1500-1000-500-10 at batch 1024, in float32, in TensorFloat-32 and in
bf16-mixed, with plain SGD and with Adam. Every contender makes groups of steps on minibatches that are on the device;
the clock stops when the device is done. Autograd runs eagerly and compiled (``mode="reduce-overhead"``, which records
CUDA graphs), with torch's fused optimizers, and in bf16 under autocast. ``fit`` runs through the command, progress bar
and logging on, with SGD: how long a step takes within each epoch, with its share of records and of Health, and the
command's own ``train_seconds``, which hold what ends an epoch, such as checkpoints, too.
"""

import functools
import time
from collections.abc import Callable, Sequence

import torch
from epoch_clock import MICROSECONDS
from networks import NOTEBOOK, hand_network, label, torch_network
from peers.fit_command import fit
from results import Benchmark
from timing import in_turn, ratio, spread
from torch.nn import functional as F

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.choice import choose
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.optim import SGD, Adam

WIDE = (784, 2500, 2000, 1500, 1000, 500, 10)
LR, EPOCHS = 1e-3, 15
PRECISIONS = {"float32": ("highest", None), "tf32": ("high", None), "bf16-mixed": ("highest", torch.bfloat16)}
OURS = "ours"


def minibatches(count: int, batch_size: int, device: str) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, batch_size, NOTEBOOK[0], generator=generator).to(device)
    y = torch.randint(NOTEBOOK[-1], (count, batch_size), generator=generator).to(device)
    return [Batch(x[k], y[k], x[k, :0], y[k, :0], batch_size) for k in range(count)]


def hand_steps(sizes: Sequence[int], rule: str, dtype: torch.dtype | None, batches: list[Batch]) -> Callable[[], None]:
    network = hand_network(sizes).to(batches[0].x.device)
    make_rule = SGD if rule == "sgd" else Adam
    rule_of_network = make_rule([network.flat], LR)
    recipe = StepRecipe(network=network, loss=SoftmaxCrossEntropy("sum"), rule=rule_of_network, products=dtype)
    step = choose(recipe).engine

    def group() -> None:
        with torch.inference_mode():
            made = sum(several.n_steps for several in step.steps(batches, [LR] * len(batches), 0))
            for batch in batches[made:]:
                step(batch, LR, keep_gradient=False)
            step.finiteness.look(len(batches), LR)

    return group


def autograd_steps(
    sizes: Sequence[int], rule: str, dtype: torch.dtype | None, batches: list[Batch], *, compiled: bool
) -> Callable[[], None]:
    device = batches[0].x.device
    network = torch_network(sizes).to(device)
    make_rule = torch.optim.SGD if rule == "sgd" else torch.optim.Adam
    optimizer = make_rule(network.parameters(), LR, fused=True)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype is not None):
            return F.cross_entropy(network(x), y)

    compute = torch.compile(loss_of, mode="reduce-overhead") if compiled else loss_of

    def group() -> None:
        total = torch.zeros((), device=device)
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = compute(batch.x, batch.y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    return group


def seconds_a_step(group: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    group()
    return (time.perf_counter() - start) / count


def race(benchmark: Benchmark, sizes: Sequence[int], batch_size: int, count: int, device: str) -> None:
    batches = minibatches(count, batch_size, device)
    print(f"\n{label(sizes)}, batch {batch_size}: µs a step", flush=True)
    for precision, (matmul, dtype) in PRECISIONS.items():
        torch.set_float32_matmul_precision(matmul)
        for rule in ("sgd", "adam"):
            groups = {
                OURS: hand_steps(sizes, rule, dtype, batches),
                "autograd": autograd_steps(sizes, rule, dtype, batches, compiled=False),
                "autograd, compiled": autograd_steps(sizes, rule, dtype, batches, compiled=True),
            }

            for group in groups.values():
                # The second finds everything compiled and recorded.
                group()
                group()
            timers = {name: functools.partial(seconds_a_step, group, count) for name, group in groups.items()}
            seconds = in_turn(timers, benchmark.options.rounds)
            for name, values in seconds.items():
                over, median = ratio(values, seconds[OURS]), spread(values).median * 1e6
                line = f"  {precision:11} {rule:5} {name:20} {median:9.1f}, ratio {over}"
                benchmark.row(line, sizes=label(sizes), precision=precision, rule=rule, name=name, seconds=values)
    torch.set_float32_matmul_precision("highest")


def fit_rows(benchmark: Benchmark, device: str) -> None:
    """``fit`` of the small network, and of the wide one in bf16-mixed."""
    quick = benchmark.options.quick
    print("\nfit: µs a step within each epoch, and seconds of training with what ends the epochs", flush=True)
    small = NOTEBOOK if device == "cuda" else (NOTEBOOK[0], 20, NOTEBOOK[-1])
    fits = [(small, 64, precision, 0.1, 1 if quick else EPOCHS) for precision in PRECISIONS]
    fits += [(WIDE, 1024, "bf16-mixed", 0.02, 1 if quick else 5)] if device == "cuda" else []
    for sizes, batch_size, precision, lr, epochs in fits:
        matmul, dtype = PRECISIONS[precision]
        options = {
            "trainer.max_epochs": epochs,
            "trainer.precision": "32-true" if dtype is None else "bf16-mixed",
            "trainer.float32_matmul_precision": matmul,
            "trainer.callbacks": '[{"class_path": "epoch_clock.EpochClock"}]',
            "model.hidden": list(sizes[1:-1]),
            "model.optimizer": "sgd",
            "model.lr": lr,
            "data.batch_size": batch_size,
            "test": "never",
        }
        metrics = fit(options, device)
        seconds, accuracy, steps = metrics["train_seconds"], metrics["val/accuracy"], list(MICROSECONDS)
        line = (
            f"  {label(sizes)}, batch {batch_size}, {precision:11} {spread(steps)}; {epochs} epochs in {seconds:.2f} s"
        )
        benchmark.row(
            f"{line}, validation accuracy {accuracy:.4f}",
            sizes=label(sizes),
            precision=precision,
            name="fit",
            epochs=epochs,
            seconds=[seconds],
            microseconds=steps,
            accuracy=accuracy,
        )


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=15)
    benchmark.parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu shows that it works")
    options = benchmark.start()
    if options.device == "cuda" and not torch.cuda.is_available():
        benchmark.parser.exit(message="there is no CUDA device: nothing to measure\n")
    if options.device == "cuda":
        print(torch.cuda.get_device_name())
    fit_rows(benchmark, options.device)
    small = NOTEBOOK if options.device == "cuda" else (NOTEBOOK[0], 20, NOTEBOOK[-1])
    race(benchmark, small, 64, 32, options.device)
    if options.device == "cuda":
        race(benchmark, WIDE, 1024, 2, options.device)
    benchmark.finish()


if __name__ == "__main__":
    run()
