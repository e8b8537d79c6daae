"""The command export: every format against our network, and its printed lines in processes of their own."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_lightning.cli import start
from mlp_lightning.commands.export import formats as export_formats
from mlp_lightning.commands.export.command import FORMAT_NAMES
from mlp_lightning.commands.export.formats import FORMATS
from mlp_lightning.commands.export.program import Cells, Program
from mlp_lightning.commands.export.proof import prove
from mlp_lightning.commands.export.samples import random_samples
from mlp_lightning.data.preprocessing import (
    ArrayPreprocessing,
    CategoricalColumn,
    ImagePreprocessing,
    NumericColumn,
    Preprocessing,
    TablePreprocessing,
)
from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.predicting.model import Model, load

TABLE = TablePreprocessing(
    (
        # A large number whose deviation float32 would lose.
        NumericColumn("day", 20_240_131.0, 0.25, fill=20_240_131.5),
        CategoricalColumn("city", ("Berlin", "Paris\n# \"'", "Rome"), fill="Rome", unknown="zero"),
        NumericColumn("height", 1.7, 0.1),
        NumericColumn("member", 0.4, 0.5, fill=0.0, truth=True),
        CategoricalColumn("size", ("L", "S")),
    ),
    "label",
)
DATA: dict[str, Preprocessing] = {
    "grey": ImagePreprocessing(4, 3),
    "colour": ImagePreprocessing(3, 2, 3),
    "array": ArrayPreprocessing(5),
    "table": TABLE,
}
NAMES = ("a", "'b'", 'c\n"')


def model_of(
    data: str, activation: str = "relu", norm: str = "none", dtype: torch.dtype = torch.float32, scale: float = 0.5
) -> Model:
    preprocessing = DATA[data]
    network = MLP([preprocessing.n_features, 7, 6, 3], activation, "zeros", norm=norm, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    network.flat.copy_(torch.randn(network.flat.shape, generator=generator) * scale)
    if network.running is not None:
        network.running.copy_(torch.rand(network.running.shape, generator=generator) + 0.5)
    return Model(network, NAMES, preprocessing, False, Path("none"))


def save_checkpoint(model: Model, path: Path, averaging: str = "none", **other: torch.Tensor) -> None:
    """As a training leaves it, in what is read of it."""
    prefix = "network." if averaging == "none" else "averaged_network."
    checkpoint = {
        "state_dict": {**{prefix + name: value for name, value in model.network.state_dict().items()}, **other},
        "hyper_parameters": {"activation": model.network.activation, "averaging": averaging},
        "sizes": list(model.network.sizes),
        "norm": model.network.norm,
        "history": {},
        "window": {},
        "data": {
            "class_names": list(model.class_names),
            "image_shape": list(model.image_shape),
            "preprocessing": model.preprocessing.to_dict(),
        },
    }
    torch.save(checkpoint, path)


def skip_without(name: str) -> None:
    for package in FORMATS[name].needs:
        pytest.importorskip(package)


def export(checkpoint: Path, name: str, output: Path, *other: str) -> None:
    start.main(["export", "--ckpt_path", str(checkpoint), "--format", name, "--output", str(output), *other])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.ckpt"
    save_checkpoint(model_of("grey"), path)
    return path


def test_the_light_list_of_formats_is_the_whole_one() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


KINDS = [
    ("grey", "float32", "batch", "float64"),
    ("colour", "uint8", "layer", "float32"),
    ("grey", None, "none", "float32"),
    ("colour", "float32", "none", "float32"),
    ("array", None, "batch", "float32"),
    ("array", "uint8", "none", "float64"),
    ("table", None, "layer", "float64"),
    ("table", None, "none", "float32"),
]


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize(
    ("data", "given", "activation", "norm", "dtype"),
    [(data, given, name, norm, dtype) for name, (data, given, norm, dtype) in zip(ACTIVATIONS, cycle(KINDS))],
)
def test_the_file_computes_what_the_network_does(
    data: str, given: Any, activation: str, norm: str, dtype: str, name: str, tmp_path: Path
) -> None:
    skip_without(name)
    model = model_of(data, activation, norm, getattr(torch, dtype))
    FORMATS[name].write(model, given, tmp_path / "file")
    proof = prove(model, FORMATS[name], given, tmp_path / "file")
    assert proof.difference < (1e-12 if dtype == "float64" and name != "onnx" else 1e-5)
    assert proof.holds


def test_onnx_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("onnx")
    model = model_of("table", "gelu", "layer")
    FORMATS["onnx"].write(model, None, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert prove(model, FORMATS["onnx"], None, tmp_path / "file").difference < 1e-5


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "torch" else pytest.mark.slow) for name in FORMAT_NAMES],
)
def test_the_printed_lines_run_without_this_package(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without(name)
    if name == "onnx":
        pytest.importorskip("onnxruntime")
    whole, script, expected = FORMATS[name].whole, ["import sys"], {}
    monkeypatch.chdir(tmp_path)
    for data, norm in (("grey", "batch"), ("table", "layer")):
        model = model_of(data, "gelu", norm)
        save_checkpoint(model, tmp_path / f"{data}.ckpt")
        export(Path(f"{data}.ckpt"), name, Path(f"{data}.pt2"))
        first, _, lines = capsys.readouterr().out.partition("\n\n")
        assert re.match(rf"{data}\.pt2: (probabilities|logits) differ from the network's by at most \S+ ", first)
        assert len([line for line in lines.splitlines() if line and line[0] != "#"]) <= 5
        samples, x = random_samples(model, None)
        torch.save(samples if whole else x, tmp_path / f"{data}.pt")
        expected[data] = model.probabilities(x)
        script += [
            lines,
            "import torch",
            f"given = torch.load('{data}.pt')",
            _RUN[name],
            f"torch.save(p, '{data}.out')",
        ]
    script += ["assert not [module for module in sys.modules if module.startswith(('mlp_lightning', 'lightning'))]"]
    command = [sys.executable, "-W", "error", "-c", "\n".join(script)]
    # No path to this package.
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": "1"})
    for data, probabilities in expected.items():
        found = torch.load(tmp_path / f"{data}.out")
        if name == "safetensors":
            network = MLP([*load(tmp_path / f"{data}.ckpt").network.sizes], "gelu", norm=json.loads(found["norm"]))
            network.load_state_dict(found["weights"])
            found = network(torch.load(tmp_path / f"{data}.pt"))[0].softmax(1)
        torch.testing.assert_close(found, probabilities, rtol=0, atol=1e-5)


# What follows the printed lines, to run the file on other samples than theirs.
_RUN = {
    "torch": "assert probabilities.shape == (1, 3); p = network(given).softmax(1)",
    "torch_export": "assert probabilities.shape == (1, 3); p = program(given)",
    "onnx": "assert probabilities.shape == (1, 3); "
    "p = torch.from_numpy(session.run(['probabilities'], {'samples': given.numpy()})[0])",
    "safetensors": "p = {'weights': weights, 'norm': about['norm']}",
}


def test_nothing_imports_lightning(checkpoint: Path, tmp_path: Path) -> None:
    code = "import sys; from mlp_lightning.cli.start import main; main(sys.argv[1:]); "
    code += "assert 'lightning' not in sys.modules"
    arguments = ["export", "--ckpt_path", str(checkpoint), "--format", "torch", "--output", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], check=True, capture_output=True)


def test_what_the_table_says_of_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(model_of("table"), tmp_path / "model.ckpt")
    export(tmp_path / "model.ckpt", "torch_export", tmp_path / "model.pt2")
    printed = capsys.readouterr().out
    assert "# samples: (B, 5), the columns of the table in this order" in printed
    assert "#   'city': 0 = 'Berlin', 1 = 'Paris\\n# \"\\'', 2 = 'Rome', another category -1, missing NaN\n" in printed
    assert "#   'size': 0 = 'L', 1 = 'S', another category not allowed, missing not allowed\n" in printed
    assert "#   'member': the number as it is (true 1, false 0), missing NaN\n" in printed


def test_cells_by_hand() -> None:
    cells = Cells(TABLE)
    nan = torch.nan
    rows = torch.tensor(
        [
            [20_240_131.25, 1, 1.9, 1, 0],
            [nan, nan, 1.7, nan, 1],
            [20_240_131, -1, 1.6, 0, 1],
            [20_240_131, 0.5, 1.6, 0, 1],
            [20_240_131, 0, nan, 0, 2],
            [20_240_131, 0, 1.7, 0, nan],
        ],
        dtype=torch.float64,
    )
    expected = torch.tensor(
        [
            [1, 0, 1, 0, 2, 1.2, 1, 0],
            [2, 0, 0, 1, 0, -0.8, 0, 1],
            [0, 0, 0, 0, -1, -0.8, 0, 1],
            [0, 0, 0, 0, -1, -0.8, 0, 1],
            [0, 1, 0, 0, nan, -0.8, nan, nan],
            [0, 1, 0, 0, 0, -0.8, nan, nan],
        ]
    )
    torch.testing.assert_close(cells(rows), expected, equal_nan=True)


@pytest.mark.parametrize("data", DATA)
def test_random_samples_reach_every_case(data: str) -> None:
    model = model_of(data)
    samples, x = random_samples(model, None)
    assert torch.equal(Program(model).features(samples), x)
    assert x.isfinite().all()
    if data == "table":
        assert samples[:, [0, 1, 3]].isnan().any(0).all()
        assert samples[:, 1].nan_to_num(2).unique().tolist() == [0, 1, 2, 3]


def test_missing_where_none_was_seen_gives_nan(tmp_path: Path) -> None:
    model = model_of("table")
    samples = random_samples(model, None).given[:3]
    samples[1, 2] = torch.nan
    samples[2, 4] = 2
    assert Program(model)(samples).isnan().all(1).tolist() == [False, True, True]


def test_averaged_weights_are_exported(tmp_path: Path) -> None:
    averaged = model_of("grey")
    raw = {f"network.{name}": value + 1 for name, value in averaged.network.state_dict().items()}
    save_checkpoint(averaged, tmp_path / "model.ckpt", averaging="ema", **raw)
    export(tmp_path / "model.ckpt", "torch", tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt")["0.weight"], averaged.network.layers[0].weight)


def test_metadata(tmp_path: Path) -> None:
    model = model_of("table", "tanh", "batch")
    about = json.loads(json.dumps(export_formats.description(model)))
    assert about["class_names"] == list(NAMES)
    assert (about["sizes"], about["activation"], about["norm"]) == ([8, 7, 6, 3], "tanh", "batch")
    assert about["preprocessing"] == TABLE.to_dict()
    extra = {"model.json": ""}
    FORMATS["torch_export"].write(model, None, tmp_path / "model.pt2")
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["model.json"]) == about
    assert str(Path(export_formats.__file__).parent).encode() not in (tmp_path / "model.pt2").read_bytes()


def test_metadata_of_onnx(tmp_path: Path) -> None:
    skip_without("onnx")
    import onnx

    model = model_of("grey")
    FORMATS["onnx"].write(model, None, tmp_path / "file")
    proto = onnx.load(tmp_path / "file")
    onnx.checker.check_model(proto, full_check=True)
    held = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert held == export_formats.description(model)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(Path(export_formats.__file__).parent).encode() not in (tmp_path / "file").read_bytes()


def test_metadata_of_safetensors(tmp_path: Path) -> None:
    skip_without("safetensors")
    from safetensors import safe_open

    model = model_of("grey", norm="batch")
    FORMATS["safetensors"].write(model, None, tmp_path / "file")
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert set(file.keys()) == set(model.network.state_dict())
        assert {name: json.loads(text) for name, text in file.metadata().items()} == export_formats.description(model)


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("fault", ["other weight", "nan"])
def test_what_differs_is_not_written(
    name: str,
    fault: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    skip_without(name)
    chosen = FORMATS[name]

    def write(model: Model, given: Any, path: Path) -> None:
        network = MLP(model.network.sizes, model.network.activation)
        network.load_state_dict(model.network.state_dict())
        network.layers[-1].bias[1].add_(torch.nan if fault == "nan" else 1e-3)
        chosen.write(dataclasses.replace(model, network=network), given, path)

    monkeypatch.setitem(FORMATS, name, chosen._replace(write=write))
    output = tmp_path / "out"
    output.write_text("before")
    files = set(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        export(checkpoint, name, output)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(
        r"error: \S+ was not written: its .* differ from the network's by \S+, more than \S+\n", printed.err
    )
    assert output.read_text() == "before"
    assert set(tmp_path.iterdir()) == files


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def error(*arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            export(*arguments)  # type: ignore[arg-type]
        assert caught.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        return line

    return error


@pytest.mark.parametrize(
    ("name", "extra"),
    [("onnx", "onnx"), ("onnxscript", "onnx"), ("safetensors", "safetensors")],
)
def test_missing_packages(
    name: str,
    extra: str,
    checkpoint: Path,
    tmp_path: Path,
    error_of: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in FORMATS[extra].needs:
        monkeypatch.setitem(sys.modules, package, None if package == name else sys)
    message = error_of(checkpoint, extra, tmp_path / "out")
    assert f"--format {extra}: {name} cannot be imported" in message
    assert f"pip install 'mlp-lightning[{extra}]'" in message


def test_the_checkpoint_is_not_overwritten(checkpoint: Path, error_of: Callable[..., str]) -> None:
    held = checkpoint.read_bytes()
    assert "the checkpoint itself" in error_of(checkpoint, "torch", checkpoint.parent / "." / checkpoint.name)
    assert checkpoint.read_bytes() == held


def test_a_table_has_no_input_type(tmp_path: Path, error_of: Callable[..., str]) -> None:
    save_checkpoint(model_of("table"), tmp_path / "model.ckpt")
    message = error_of(tmp_path / "model.ckpt", "torch_export", tmp_path / "out", "--input", "uint8")
    assert "--input: got uint8" in message


def test_a_folder_that_cannot_be_written(
    checkpoint: Path, tmp_path: Path, error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(FORMATS, "torch", FORMATS["torch"]._replace(write=refuse))
    assert "cannot be written: Permission denied" in error_of(checkpoint, "torch", tmp_path / "out")
