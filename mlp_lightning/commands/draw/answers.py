"""What the page of ``draw`` asks a model: what it is, what it makes of a drawing, what a unit looks for."""

from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlp_lightning.data.images.digit_pictures import mnist_picture
from mlp_lightning.data.images.pictures import read_picture
from mlp_lightning.errors import UserError
from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.predicting.model import Model

# A drawing comes as SIDE × SIDE bytes, row by row: 0 is paper, 255 is ink.
SIDE = 140
DECIMALS = 4


class Answers:
    """A model that is shown drawings, by several threads.

    Args:
        model: trained on grey images.

    Raises:
        UserError: it was trained on anything else.
    """

    def __init__(self, model: Model) -> None:
        if len(model.image_shape) != 2:
            kind = "colour images" if model.image_shape else f"no images (data of the kind {model.preprocessing.kind})"
            raise UserError(f"--ckpt_path: {model.path} was trained on {kind}, must be grey images to draw")
        self.model = model
        self._size = model.image_shape[0], model.image_shape[1]
        # The backward pass writes into the network.
        self._lock = Lock()

    def description(self) -> dict[str, Any]:
        """What the page shows of the network before anything is drawn."""
        network, path = self.model.network, self.model.path
        height, width = self._size
        return {
            "name": "/".join(part for part in path.parts[-4:] if part != "checkpoints"),
            "class_names": list(self.model.class_names),
            "height": height,
            "width": width,
            "centred": self.model.centred,
            "side": SIDE,
            "sizes": list(network.sizes),
            "activation": network.activation,
            "norm": network.norm,
            "parameters": network.flat.numel(),
        }

    def predict(self, drawing: bytes, towards: int | None = None) -> dict[str, Any]:
        """Probabilities, logits, hidden activations and the picture x that the network was given.

        Args:
            drawing: SIDE² bytes.
            towards: a class k, to be told ∂ log p_k / ∂x too: the hand-derived backward pass from the cross-entropy
                −log p_k down to the input, with its sign turned.

        Raises:
            UserError: the drawing has another length or shows nothing, there is no such class, or an output is not
                finite.
        """
        if len(drawing) != SIDE**2:
            raise UserError(
                f"drawing: got {len(drawing)} bytes, must be {SIDE**2}, one for each of {SIDE} × {SIDE} pixels"
            )
        n_classes = len(self.model.class_names)
        if towards is not None and not 0 <= towards < n_classes:
            raise UserError(f"towards: got {towards}, must be in 0 … {n_classes - 1}")
        picture = self._picture(np.frombuffer(drawing, dtype=np.uint8).reshape(SIDE, SIDE))
        network = self.model.network
        x = torch.tensor(picture.reshape(1, -1), dtype=network.flat.dtype)
        with self._lock:
            logits, cache = network(x)
            if not logits.isfinite().all():
                raise UserError("the outputs are not finite: the training of this network went wrong")
            answer: dict[str, Any] = {
                "probabilities": torch.softmax(logits, 1)[0].tolist(),
                "logits": _rounded(logits),
                "hidden": [_rounded(a) for _, _, a in cache[:-1]],
                "picture": _rounded(x),
            }
            if towards is not None:
                loss = SoftmaxCrossEntropy("sum")
                _, loss_cache = loss.forward(logits, torch.tensor([towards]))
                dx = network.backward(loss.backward(loss_cache), cache, input_gradient=True)
                assert dx is not None
                # A network that is sure of its answer hardly moves: only the pattern matters.
                dlog_p = -dx / dx.abs().max().clamp(min=torch.finfo(dx.dtype).tiny)
                answer["towards"] = {"class": towards, "gradient": _rounded(dlog_p)}
        return answer

    def weights(self, layer: int, unit: int) -> list[float]:
        """What a unit multiplies its inputs with, ``(D,)``; layers count from 1, units from 0.

        Raises:
            UserError: there is no such unit.
        """
        layers = self.model.network.layers
        if not 1 <= layer <= len(layers):
            raise UserError(f"layer: got {layer}, must be in 1 … {len(layers)}")
        weight = layers[layer - 1].weight
        if not 0 <= unit < len(weight):
            raise UserError(f"unit: got {unit}, must be in 0 … {len(weight) - 1}")
        return _rounded(weight[unit])

    def _picture(self, drawing: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The drawing as ``predict`` would give it to the network: float32 in [0, 1], light on dark."""
        if self.model.centred:
            grey = drawing.astype(np.float32) / np.float32(255)
            return mnist_picture(grey, invert="never", name="the drawing")
        from PIL import Image

        height, width = self._size
        return read_picture(Image.fromarray(drawing), height, width, 1, name="the drawing")


def _rounded(values: Tensor) -> list[float]:
    """Entries to four decimals, for half the length in JSON."""
    return [round(value, DECIMALS) for value in values.flatten().tolist()]
