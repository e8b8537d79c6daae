"""The command line, called in this process on the packaged MNIST, which is unpacked and read once for all tests."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from jsonargparse._deprecated import JsonargparseDeprecationWarning

from mlp_lightning import cli
from mlp_lightning.data import module as data_module


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
