"""What memory a training needs, counted and compared with what it takes; and errors that say that it ran out."""

import errno
import itertools
import os

import numpy
import pytest
import torch

from mlp_lightning import memory
from mlp_lightning.cli import light, start
from mlp_lightning.cli.main import CLI
from mlp_lightning.memory import machine_memory, out_of_memory
from mlp_lightning.training import memory_needed
from mlp_lightning.training.memory_needed import Setting, parameter_bytes, row_bytes
from mlp_lightning.training.module import MLPModule

# As torch.optim's rules keep them for each parameter.
STATES = [
    ({"optimizer": "sgd"}, torch.optim.SGD, {}),
    ({"optimizer": "sgd", "momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    ({"optimizer": "adam"}, torch.optim.Adam, {}),
    ({"optimizer": "adam", "amsgrad": True}, torch.optim.Adam, {"amsgrad": True}),
    ({"optimizer": "adamw"}, torch.optim.AdamW, {}),
    ({"optimizer": "nadam"}, torch.optim.NAdam, {}),
    ({"optimizer": "rmsprop"}, torch.optim.RMSprop, {}),
    ({"optimizer": "rmsprop", "centered": True}, torch.optim.RMSprop, {"centered": True}),
]


@pytest.mark.parametrize(("options", "theirs", "settings"), STATES)
@pytest.mark.parametrize("averaging", ["none", "ema"])
def test_bytes_are_those_of_torchs_tensors(options, theirs, settings, averaging):
    sizes = (30, 20, 10, 4)
    layers = [torch.nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(sizes)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = theirs(parameters, lr=0.1, **settings)
    optimizer.step()
    tensors = [*parameters, *(parameter.grad for parameter in parameters)]
    tensors += [kept for state in optimizer.state.values() for kept in state.values()]
    expected = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.ndim)
    if averaging == "ema":
        # A copy of the network, which has a gradient too.
        expected += sum(parameter.nbytes + parameter.grad.nbytes for parameter in parameters)
    module = MLPModule(hidden=[20, 10], averaging=averaging, **options)
    setting = Setting(state=module.states_kept())
    assert parameter_bytes(module.hparams, sizes, setting) == expected
    assert parameter_bytes(module.hparams, sizes, setting._replace(precision="64-true")) == 2 * expected


def test_a_minibatch_takes_at_least_inputs_outputs_and_their_gradients():
    tensors = [torch.zeros(5, width) for width in (30, 20, 20, 4, 4)]
    held = sum(tensor.nbytes for tensor in tensors)
    assert held <= row_bytes((30, 20, 4), Setting(rows=5)) <= 3 * held


@pytest.fixture
def data(tmp_path, monkeypatch):
    x = numpy.random.default_rng(0).normal(size=(60, 5)).astype(numpy.float32)
    numpy.savez(tmp_path / "data.npz", x=x, y=numpy.arange(60) % 2)
    monkeypatch.chdir(tmp_path)
    return ["--data.dataset", "arrays", "--data.root", "data.npz", "--trainer.accelerator", "cpu"]


@pytest.mark.parametrize(
    ("limit", "options", "option"),
    [
        (4e6, ["--model.hidden", "[1000, 1000]"], "model.hidden: got [1000, 1000], "),
        (14e6, ["--model.hidden", "[1000, 1000]"], "model.hidden: got [1000, 1000], "),
        # Adam's state is what is too much.
        (14e6, ["--model.hidden", "[1000, 1000]", "--model.optimizer", "sgd"], None),
        (20e6, ["--model.hidden", "[1000, 1000]", "--model.averaging", "ema"], "model.hidden: got [1000, 1000], "),
        (20e6, ["--model.hidden", "[1000, 1000]"], None),
        (2.5e5, ["--model.hidden", "[600]", "--data.batch_size", "1000000"], "data.batch_size: got "),
    ],
)
def test_a_training_that_cannot_fit_is_refused_by_the_option_to_change(
    run_main, data, monkeypatch, capsys, limit, options, option
):
    monkeypatch.setattr(memory_needed, "machine_memory", lambda: limit)
    monkeypatch.setattr(CLI, "_run_subcommand", lambda self, subcommand: None)
    if option is None:
        run_main("fit", *data, *options)
        return
    with pytest.raises(SystemExit) as ended:
        run_main("fit", *data, *options)
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {option}")
    assert f"must fit in this machine's memory of {limit / 1e9:,.1f} GB" in line


@pytest.mark.parametrize("missing", [AttributeError, ValueError, OSError])
def test_a_system_that_does_not_tell_its_memory(monkeypatch, missing):
    def sysconf(name):
        raise missing

    monkeypatch.setattr(os, "sysconf", sysconf)
    monkeypatch.setattr(memory, "_LIMITS", ())
    assert machine_memory() is None
    module = MLPModule(hidden=[10**6, 10**6])
    module.check_widths(10, 2)


def test_a_container_s_limit_counts(monkeypatch, tmp_path):
    for name, text in (("limit", "12345\n"), ("none", "max\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "none", tmp_path / "gone"))
    whole = machine_memory()
    assert whole == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert machine_memory() == 12345


def too_large():
    """As the libraries themselves say it."""
    for take in (lambda: torch.empty(2**50), lambda: numpy.empty(2**50), lambda: bytearray(2**62)):
        try:
            take()
        except (RuntimeError, MemoryError) as error:
            yield error
    yield RuntimeError("std::bad_alloc")
    yield OSError(errno.ENOMEM, "Cannot allocate memory")
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize("error", [*too_large()], ids=lambda error: type(error).__name__)
def test_too_little_memory_is_one_line(run_main, data, monkeypatch, capsys, error):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(CLI, "_run_subcommand", fails)
    with pytest.raises(SystemExit) as ended:
        run_main("fit", *data)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: out of memory")
    monkeypatch.setitem(light.LIGHT, "predict", fails)
    with pytest.raises(SystemExit) as ended:
        start.main(["predict"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory")


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("not enough memory"), OSError(2, "x")])
def test_other_errors_are_not_taken_for_it(error):
    assert out_of_memory(error) is None
