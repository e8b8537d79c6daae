"""The command line, called in this process on the packaged MNIST, which is unpacked and read once for all tests."""

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the processors: before torch is imported, which reads it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from jsonargparse._deprecated import JsonargparseDeprecationWarning

from mlp_lightning.cli import main as cli
from mlp_lightning.data import Batches, Dataset, load_dataset
from mlp_lightning.data import module as data_module
from mlp_lightning.data.preprocessing import Preprocessing
from mlp_lightning.engines.native.chain import has_chain
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.optim import Adam

pytest_plugins = ["fixtures.networks", "fixtures.trainings"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command_line_environment(cache_home: Path):
    """A context in which the default cache is a folder of the tests and Lightning's own old calls raise no warning."""
    load_once = functools.cache(data_module.load_dataset)

    @contextmanager
    def environment() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setenv("XDG_CACHE_HOME", str(cache_home))
            patch.setattr(data_module, "load_dataset", load_once)
            warnings.filterwarnings(
                "ignore", category=JsonargparseDeprecationWarning, module=r"lightning\.pytorch\.cli"
            )
            yield

    return environment


@pytest.fixture(scope="session")
def run_main(command_line_environment) -> Callable[..., None]:
    """``main``, as a user calls it."""

    def run(*arguments: object) -> None:
        with command_line_environment():
            cli.main([str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def run_cli(command_line_environment) -> Callable[..., cli.CLI]:
    """``CLI``, to look at its trainer and model when it is done; errors come as they are raised."""

    def run(*arguments: object) -> cli.CLI:
        cli.quiet_lightning()
        cli.register_strategies()
        with command_line_environment():
            return cli.CLI([str(argument) for argument in arguments])

    return run


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many threads compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=[None, torch.bfloat16], ids=["float32", "bf16-mixed"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype | None:
    """Of the products of a whole network in C, as ``Workspace`` takes it: each that this machine has."""
    mixed: torch.dtype | None = request.param
    if not has_chain(is_mixed=mixed is not None):
        pytest.skip("no compiler or BLAS" if mixed is None else "no bfloat16 products in hardware")
    return mixed


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """Writes what a training leaves of a network, without the training."""

    def write(
        path: Path, network: MLP, preprocessing: Preprocessing, class_names: Sequence[str], **hyper_parameters: object
    ) -> Path:
        prefix = "network." if hyper_parameters.get("averaging", "none") == "none" else "averaged_network."
        checkpoint = {
            "state_dict": {prefix + name: value for name, value in network.state_dict().items()},
            "hyper_parameters": {"activation": network.activation, "averaging": "none", **hyper_parameters},
            "datamodule_hyper_parameters": {"dataset": "mnist"},
            "sizes": list(network.sizes),
            "norm": network.norm,
            "history": {},
            "window": {},
            "data": {"class_names": list(class_names), "preprocessing": preprocessing.to_dict()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)
        return path

    return write


@pytest.fixture(scope="session")
def digits(cache_home: Path) -> Dataset:
    """The packaged MNIST."""
    return load_dataset("mnist", str(cache_home))


@pytest.fixture(scope="session")
def digit_checkpoint(digits: Dataset, write_checkpoint: Callable[..., Path], cache_home: Path) -> Path:
    """A small network for digits after two epochs."""
    network, loss = MLP([784, 128, 10]), SoftmaxCrossEntropy()
    optimizer = Adam([network.flat], lr=0.003)
    batches = Batches(digits.train_x, digits.train_y, batch_size=256, shuffle=True)
    for batch in [*batches, *batches]:
        logits, cache = network(batch.x)
        _, loss_cache = loss.forward(logits, batch.y)
        network.backward(loss.backward(loss_cache), cache)
        network.flat.grad = network.flat_grad
        optimizer.step()
    folder = cache_home / "lightning_logs" / "digits" / "version_0" / "checkpoints"
    return write_checkpoint(folder / "last.ckpt", network, digits.preprocessing, digits.class_names)
