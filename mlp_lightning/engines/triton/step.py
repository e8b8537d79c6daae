"""One training step on a GPU: the launches of ``cuda_kernels`` for minibatches of one size."""

import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.engines.triton import kernels
from mlp_lightning.nn import MLP

# Rows of operands begin at multiples of so many bytes, which a GPU reads at once.
ALIGNED = 128
# Biases that one program updates.
BIASES = 256
# Programs that a product should at least be shared out to: most of a large GPU's multiprocessors.
ENOUGH = 80
# Multiplications in the product dW of a layer from which on the step on W is a kernel of its own: within the product it
# would take the registers that large tiles need, and large products want large tiles.
MANY = 1 << 28


class Tile(NamedTuple):
    """The part of a product that one program computes: its rows and columns, and how deep it steps through the sum."""

    rows: int
    columns: int
    depth: int
    warps: int

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Programs that cover so many rows and columns."""
        return _blocks(rows, self.rows), _blocks(columns, self.columns)


SMALL, MEDIUM, LARGE = Tile(16, 32, 128, 4), Tile(64, 64, 64, 4), Tile(128, 128, 64, 8)
# Of the product dW, whose sum runs over the minibatch.
OF_WEIGHTS = Tile(16, 32, 64, 4)


class Numbers(NamedTuple):
    """What one step reads and writes beside the minibatch: the row of its rule, sums of losses and of db."""

    of_rule: Tensor
    losses: Tensor
    totals: Tensor


class CudaStep:
    """A step on minibatches of ``rows`` samples, in memory of its own.

    The layers' products, biases, activations, loss and deltas are one kernel a layer and pass, dW of all layers and
    the update one more. A large layer's dW and update, which nothing waits for but the weights, are kernels of their
    own, and may run beside those that the next delta comes from.

    Args:
        network: of linear layers and sigmoid, tanh or relu, float32.
        rounded: in mixed precision the weights ``(H, D)`` in the dtype of the products, their rows padded with zeros
            (``padded``); empty for float32. The step rounds them anew.
        moments: what the rule keeps, as flat tensors like the parameter; none, one or two.
        rows: B.
        rule: ``sgd``, ``momentum`` or ``adam``.
        scale: of the gradient: 1/B for the mean.
        smoothing: of the labels.
        precision: of products of float32: ``tf32x3``, which are as exact as float32, or ``tf32``.
    """

    def __init__(
        self,
        network: MLP,
        rounded: Sequence[Tensor],
        moments: Sequence[Tensor],
        rows: int,
        *,
        rule: str,
        scale: float,
        smoothing: float,
        precision: str,
    ) -> None:
        self.network, self.rounded, self.rows = network, rounded, rows
        self.rule, self.scale, self.smoothing, self.precision = rule, scale, smoothing, precision
        flat = network.flat.detach()
        # Pointers that a rule has no use for may point anywhere.
        first, second = (*moments, flat, flat)[:2]
        self._moments = network.layers_on(first, second)
        self._flat_moments = first[network.weight_numel :], second[network.weight_numel :]
        inner = network.sizes[1:-1]
        self.dtype = rounded[0].dtype if rounded else flat.dtype
        self._a = [padded(rows, width, self.dtype, flat.device) for width in inner]
        self._dz = [padded(rows, width, self.dtype, flat.device) for width in network.sizes[1:]]
        self._apart = [rows * layer.weight.numel() >= MANY for layer in network.layers]
        # One kernel after another, of which none runs on another stream, on a GPU that launches the next one early.
        knows = flat.is_cuda and torch.cuda.get_device_capability(flat.device) >= (9, 0)
        self._dependent = knows and not any(self._apart)
        self._loss_tile = _loss_tile(rows, network.sizes[-1])
        self.n_losses = _blocks(rows, self._loss_tile.rows)
        self.n_biases = sum(network.sizes[1:])
        self.n_totals = _blocks(self.n_biases, BIASES)
        self._n_partials = max([self.n_losses, *(_blocks(rows, self._tile(rows, width).rows) for width in inner)])
        self._partials = torch.zeros(self._n_partials, self.n_biases, device=flat.device)
        ends = [sum(network.sizes[1 : k + 1]) for k in range(len(network.layers))]
        self._of_layer = [self._partials[:, end:] for end in ends]

    def launch(
        self, x: Tensor, targets: Tensor, numbers: Numbers, *, keeps: bool, beside: "torch.cuda.Stream | None"
    ) -> None:
        """Ask the device for a step.

        Args:
            x: X ``(B, D)``, ``padded``, in the dtype of the products.
            targets: y ``(B,)``.
            numbers: of this step.
            keeps: whether the gradient is left in ``network.flat_grad``.
            beside: the stream of what nothing waits for; None for the same one.
        """
        if not any(self._apart):
            beside = None
        inputs = [x, *self._a]
        last = len(inputs) - 1
        for k in range(last):
            self._forward(k, inputs[k], inputs[k + 1])
        self._loss(inputs[last], targets, numbers)
        for k in range(last, 0, -1):
            self._delta(k, inputs[k])
            if self._apart[k]:
                # Not before the delta, which reads the weights that this changes.
                with _after(beside):
                    self._descend_apart(k, inputs[k], numbers)
        with _after(beside):
            self._descend(inputs, numbers, keeps)
        if self._apart[0]:
            self._descend_apart(0, x, numbers)
        if beside is not None:
            torch.cuda.current_stream().wait_stream(beside)

    def _forward(self, k: int, x: Tensor, out: Tensor) -> None:
        layer, weight = self.network.layers[k], self._weights(k)
        width = layer.weight.shape[0]
        tile, unit, out_unit = self._tile(self.rows, width), _unit(x, weight), _unit(out)
        kernels.linear_kernel[tile.grid(self.rows, width)](
            x,
            weight,
            layer.bias,
            out,
            self.rows,
            width,
            x.stride(0) // unit,
            weight.stride(0) // unit,
            out.stride(0) // out_unit,
            ACTIVATION=self.network.activation,
            PRECISION=self.precision,
            UNIT=unit,
            OUT_UNIT=out_unit,
            **self._launched(tile),
        )

    def _loss(self, x: Tensor, targets: Tensor, numbers: Numbers) -> None:
        layer, weight, dlogits, tile = self.network.layers[-1], self._weights(-1), self._dz[-1], self._loss_tile
        unit = _unit(x, weight)
        kernels.loss_kernel[(self.n_losses,)](
            x,
            weight,
            layer.bias,
            targets,
            dlogits,
            self._of_layer[-1],
            numbers.losses,
            self.rows,
            layer.weight.shape[0],
            self.scale,
            self.smoothing,
            x.stride(0) // unit,
            weight.stride(0) // unit,
            dlogits.stride(0),
            self.n_biases,
            PRECISION=self.precision,
            UNIT=unit,
            **self._launched(tile),
        )

    def _delta(self, k: int, a: Tensor) -> None:
        """dZ_{k−1} from dZ_k and A_{k−1}."""
        fan_out, fan_in = self.network.layers[k].weight.shape
        weight, dz, out = self._weights(k), self._dz[k], self._dz[k - 1]
        tile, unit, dz_unit = self._tile(self.rows, fan_in), _unit(weight, a), _unit(dz)
        kernels.delta_kernel[tile.grid(self.rows, fan_in)](
            dz,
            weight,
            a,
            out,
            self._of_layer[k - 1],
            self.rows,
            fan_in,
            fan_out,
            dz.stride(0) // dz_unit,
            weight.stride(0) // unit,
            a.stride(0) // unit,
            self.n_biases,
            ACTIVATION=self.network.activation,
            PRECISION=self.precision,
            UNIT=unit,
            DZ_UNIT=dz_unit,
            **self._launched(tile),
        )

    def _descend(self, inputs: Sequence[Tensor], numbers: Numbers, keeps: bool) -> None:
        """The step on b, and on W of all layers whose products are not large."""
        ks = [k for k in range(len(inputs)) if not self._apart[k]]
        layers, moments = [self.network.layers[k] for k in ks], [self._moments[k] for k in ks]
        dzs, a, rounded = [self._dz[k] for k in ks], [inputs[k] for k in ks], [self._weights(k) for k in ks]
        shapes, tile = [layer.weight.shape for layer in layers], self._of_dtype(OF_WEIGHTS)
        units = [_unit(*pair) for pair in zip(a, rounded, strict=True)]
        dz_units, fan_in_units = [_unit(dz) for dz in dzs], [math.gcd(fan_in, 4) for _, fan_in in shapes]
        first = [0, *itertools.accumulate(math.prod(tile.grid(*shape)) for shape in shapes)]
        n_weights = self.network.weight_numel
        kernels.descent_kernel[(first[-1] + self.n_totals,)](
            tuple(dzs),
            tuple(a),
            tuple(layer.dweight for layer in layers),
            tuple(layer.weight for layer in layers),
            tuple(moment.weight for moment in moments),
            tuple(moment.dweight for moment in moments),
            tuple(rounded),
            tuple(fan_in // unit for (_, fan_in), unit in zip(shapes, fan_in_units, strict=True)),
            tuple(fan_out for fan_out, _ in shapes),
            tuple(dz.stride(0) // unit for dz, unit in zip(dzs, dz_units, strict=True)),
            tuple(x.stride(0) // unit for x, unit in zip(a, units, strict=True)),
            tuple(weight.stride(0) // unit for weight, unit in zip(rounded, units, strict=True)),
            self._partials,
            self.network.flat_grad[n_weights:],
            self.network.flat.detach()[n_weights:],
            *self._flat_moments,
            numbers.totals,
            numbers.of_rule,
            self.rows,
            self.n_biases,
            self._n_partials,
            keeps,
            FIRST=tuple(first),
            UNITS=tuple(units),
            DZ_UNITS=tuple(dz_units),
            FAN_IN_UNITS=tuple(fan_in_units),
            RULE=self.rule,
            ROUNDS=bool(self.rounded),
            PRECISION=self.precision,
            PARTIALS=16,
            BIASES=BIASES,
            **self._launched(tile),
        )

    def _descend_apart(self, k: int, a: Tensor, numbers: Numbers) -> None:
        """dW of a layer in tiles as large as products want them, then the step on W."""
        layer, moments, weight, dz = self.network.layers[k], self._moments[k], self._weights(k), self._dz[k]
        fan_out, fan_in = layer.weight.shape
        tile, unit, dz_unit, fan_in_unit = self._tile(fan_out, fan_in), _unit(a), _unit(dz), math.gcd(fan_in, 4)
        kernels.weight_kernel[tile.grid(fan_out, fan_in)](
            dz,
            a,
            layer.dweight,
            self.rows,
            fan_in // fan_in_unit,
            fan_out,
            dz.stride(0) // dz_unit,
            a.stride(0) // unit,
            PRECISION=self.precision,
            UNIT=unit,
            DZ_UNIT=dz_unit,
            FAN_IN_UNIT=fan_in_unit,
            **_launched(tile),
        )
        unit = _unit(weight)
        kernels.update_kernel[(_blocks(fan_out, 4), _blocks(fan_in, 256))](
            layer.dweight,
            layer.weight,
            moments.weight,
            moments.dweight,
            weight,
            numbers.of_rule,
            fan_in // fan_in_unit,
            fan_out,
            weight.stride(0) // unit,
            RULE=self.rule,
            ROUNDS=bool(self.rounded),
            UNIT=unit,
            FAN_IN_UNIT=fan_in_unit,
            ROWS=4,
            COLUMNS=256,
        )

    def _launched(self, tile: Tile) -> dict[str, Any]:
        early = {"launch_pdl": True} if self._dependent else {}
        return {**_launched(tile), **early, "DEPENDENT": self._dependent}

    def _weights(self, k: int) -> Tensor:
        """The operand of the products, whose dtype they have."""
        return self.rounded[k] if self.rounded else self.network.layers[k].weight

    def _tile(self, rows: int, columns: int) -> Tile:
        """The largest of which there are enough."""
        tiles = (tile for tile in (LARGE, MEDIUM) if math.prod(tile.grid(rows, columns)) >= ENOUGH)
        tile = next(tiles, SMALL)
        return self._of_dtype(MEDIUM if tile is LARGE and not self.rounded else tile)

    def _of_dtype(self, tile: Tile) -> Tile:
        """Shared memory holds as many bytes whatever the dtype."""
        return tile if self.rounded else tile._replace(depth=tile.depth // 2)


def padded(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros ``(rows, width or a little more)``, aligned in mixed precision; float32 is read four numbers at a time."""
    multiple = 4 if dtype == torch.float32 else ALIGNED // dtype.itemsize
    return torch.zeros(rows, _blocks(width, multiple) * multiple, dtype=dtype, device=device)


def _loss_tile(rows: int, classes: int) -> Tile:
    """All classes side by side; where they are many, of fewer samples, so that the operands fit into shared memory."""
    columns = max(16, _power_of_2(classes))
    few = columns <= 64
    return Tile(64 if few and rows > 256 else 16, columns, 64 if few else 32, 4)


def _launched(tile: Tile) -> dict[str, int]:
    return {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "num_warps": tile.warps, "num_stages": 3}


def _after(beside: "torch.cuda.Stream | None") -> AbstractContextManager[None]:
    """On another stream, what comes after all that was asked for so far; without one, on the same."""
    if beside is None:
        return nullcontext()
    beside.wait_stream(torch.cuda.current_stream())
    on_stream: AbstractContextManager[None] = torch.cuda.stream(beside)
    return on_stream


def _unit(*tensors: Tensor) -> int:
    """What the strides of rows are multiples of, up to 16."""
    return math.gcd(16, *(tensor.stride(0) for tensor in tensors))


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
