"""The four formats: how each is written, and how what was written is run again without any of our code."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.commands.export.network import torch_network
from mlp_lightning.commands.export.program import InputName, Program
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.model import Model

Run = Callable[[Tensor], Tensor]
ANY_BATCH = ({0: torch.export.Dim("batch")},)


class Format(NamedTuple):
    """What ``--format`` names.

    ``write`` puts a model, whose samples are given in the type named, into a file. ``read`` makes of that file a
    function: of a ``whole`` program from samples to probabilities, of weights alone from x ``(B, D)`` to logits.
    ``needs`` are packages, ``extra`` names them.
    """

    write: Callable[[Model, InputName | None, Path], None]
    read: Callable[[Model, Path], Run]
    whole: bool
    needs: tuple[str, ...] = ()
    extra: str = ""


def require_packages(name: str, chosen: Format) -> None:
    """Raises UserError with the command that installs them if packages are not there."""
    missing = []
    for package in chosen.needs:
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(
            f"--format {name}: {' and '.join(missing)} cannot be imported; "
            f"install what it needs with pip install 'mlp-lightning[{chosen.extra}]'"
        )


def description(model: Model) -> dict[str, Any]:
    """What the weights do not say, in plain values; every format but ``torch``, which has no place for it, holds it."""
    return {
        "sizes": list(model.network.sizes),
        "activation": model.network.activation,
        "norm": model.network.norm,
        "class_names": list(model.class_names),
        "preprocessing": model.preprocessing.to_dict(),
    }


def _texts(model: Model) -> dict[str, str]:
    return {name: json.dumps(value, ensure_ascii=False) for name, value in description(model).items()}


def _write_torch(model: Model, given: InputName | None, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(torch_network(model.network).state_dict(), file)


def _read_torch(model: Model, path: Path) -> Run:
    network = torch_network(model.network)
    for parameter in network.parameters():
        parameter.zero_()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def _write_torch_export(model: Model, given: InputName | None, path: Path) -> None:
    program = Program(model, given)
    exported = torch.export.export(program, (program.features.example(),), dynamic_shapes=ANY_BATCH)
    for node in exported.graph.nodes:
        # Where in our files, and so on this user's disk, each operation came from.
        node.meta.pop("stack_trace", None)
    with path.open("wb") as file:
        torch.export.save(exported, file, extra_files={"model.json": json.dumps(description(model))})


def _read_torch_export(model: Model, path: Path) -> Run:
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(model: Model, given: InputName | None, path: Path) -> None:
    # Runtimes know most of ONNX's functions in float32 alone.
    program = Program(model, given, torch.float32)
    onnx_program = torch.onnx.export(
        program,
        (program.features.example(),),
        input_names=["samples"],
        output_names=["probabilities"],
        dynamic_shapes=ANY_BATCH,
        dynamo=True,
        verbose=False,
    )
    assert onnx_program is not None
    proto = onnx_program.model_proto
    for node in proto.graph.node:
        # As above, and much of it.
        node.ClearField("metadata_props")
    for name, text in _texts(model).items():
        proto.metadata_props.add(key=name, value=text)
    path.write_bytes(proto.SerializeToString())


def _read_onnx(model: Model, path: Path) -> Run:
    session: Any
    try:
        from onnxruntime import InferenceSession
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(path))
    else:
        session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda samples: torch.from_numpy(session.run(None, {"samples": samples.numpy()})[0])


def _write_safetensors(model: Model, given: InputName | None, path: Path) -> None:
    from safetensors.torch import save

    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    path.write_bytes(save(weights, _texts(model)))


def _read_safetensors(model: Model, path: Path) -> Run:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = {name: json.loads(text) for name, text in file.metadata().items()}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    dtype = weights["layers.0.weight"].dtype
    network = MLP(about["sizes"], about["activation"], "zeros", norm=about["norm"], dtype=dtype)
    network.load_state_dict(weights)
    return lambda x: network(x)[0]


FORMATS = {
    "torch": Format(_write_torch, _read_torch, whole=False),
    "torch_export": Format(_write_torch_export, _read_torch_export, whole=True),
    "onnx": Format(_write_onnx, _read_onnx, whole=True, needs=("onnx", "onnxscript"), extra="onnx"),
    "safetensors": Format(
        _write_safetensors, _read_safetensors, whole=False, needs=("safetensors",), extra="safetensors"
    ),
}
