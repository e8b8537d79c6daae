"""The multilayer perceptron: linear layers and activations in turn, with norms and dropout between them if wanted."""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from mlp_lightning.nn.activations import ACTIVATIONS
from mlp_lightning.nn.dropout import dropout_backward, dropout_forward
from mlp_lightning.nn.flat_storage import FlatStorage
from mlp_lightning.nn.initializers import INITIALIZERS
from mlp_lightning.nn.linear import linear_backward, linear_backward_input, linear_forward
from mlp_lightning.nn.norm import NormCache, NormName, fine, norm_backward_, norm_forward_
from mlp_lightning.nn.training_pass import TrainingPass


class Cache(list[tuple[Tensor, Tensor, Tensor]]):
    """What ``MLP.backward`` needs of a forward pass: for each layer its input, and its activation's input and output.

    Without norm and dropout layer k's entry is (A_{k−1}, Z_k, A_k), and the last layer's (A_{k−1}, logits, logits).
    With a norm the second is N_k; with dropout the first is what the layer read, A_{k−1} ⊙ M. ``masks`` holds those M,
    None where nothing was dropped, and ``norms`` what each norm left.
    """

    def __init__(self, masks: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.masks = masks
        self.norms: list[NormCache] = []


class MLP(FlatStorage):
    """A multilayer perceptron with its backward pass written out, for whole minibatches.

    Forward, layer k computes Z_k = A_{k−1} W_kᵀ + b_k and A_k = f(Z_k), with A_0 = X; the last Z holds the logits.
    Backward, starting from the last dZ = dlogits, it computes dW_k = dZ_kᵀ A_{k−1}, db_k = Σ_i dZ_k,
    dA_{k−1} = dZ_k W_k and dZ_{k−1} = dA_{k−1} · f′(Z_{k−1}) (Rumelhart, Hinton & Williams 1986).

    With a norm the activation reads N_k = γ_k · ẑ_k + β_k in the place of Z_k; with dropout the layer reads
    A_{k−1} ⊙ M_{k−1} in the place of A_{k−1}. See ``norm.py`` and ``dropout.py``.

    ``layers`` and ``norms`` hold views into the one parameter ``flat`` and into ``flat_grad``, which ``backward``
    overwrites.

    Args:
        sizes: the width of the input, of each hidden layer and of the output; at least two, each positive.
        activation: a key of ``ACTIVATIONS``, applied after every layer but the last.
        init: a key of ``INITIALIZERS``.
        norm: ``none``, ``batch`` or ``layer``, before every activation. γ starts as 1, β as 0.
        generator: a CPU generator that the initialiser draws from; None for one seeded with 0.
        dtype: of the parameter; None for torch's default. The device is chosen with ``.to``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        init: str = "he_normal",
        *,
        norm: NormName = "none",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if len(sizes) < 2 or any(size < 1 for size in sizes):
            raise ValueError(f"sizes must be two or more positive widths, got {list(sizes)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if init not in INITIALIZERS:
            raise ValueError(f"init must be one of {', '.join(INITIALIZERS)}, got {init!r}")
        if norm not in get_args(NormName):
            raise ValueError(f"norm must be one of {', '.join(get_args(NormName))}, got {norm!r}")
        super().__init__(sizes, norm, dtype)
        self.activation = activation
        generator = generator if generator is not None else torch.Generator("cpu").manual_seed(0)
        for layer in self.layers:
            INITIALIZERS[init](layer.weight, layer.bias, generator)

    def forward(self, x: Tensor, training: TrainingPass | None = None) -> tuple[Tensor, Cache]:
        """The logits ``(B, K)`` of inputs ``(B, D)``, and what ``backward`` needs.

        Args:
            x: X.
            training: masks and minibatch of a pass that trains; None to evaluate: nothing is dropped, and batch norm
                takes its running statistics. No pass changes those (``norm.follow_`` does).
        """
        if x.ndim != 2 or x.shape[1] != self.sizes[0]:
            raise ValueError(f"x must be (B, {self.sizes[0]}), got {tuple(x.shape)}")
        f = ACTIVATIONS[self.activation].forward
        layers, norms = self.layers, self.norms
        masks = training.masks if training is not None and training.masks else [None] * len(layers)
        cache = Cache(masks)
        a = dropout_forward(x, masks[0])
        for k, layer in enumerate(layers[:-1]):
            n = linear_forward(a, layer.weight, layer.bias)
            if norms:
                n, norm_cache = norm_forward_(norms[k], n.to(fine(n.dtype)), training, torch.empty_like(n))
                cache.norms.append(norm_cache)
            a_next = f(n)
            cache.append((a, n, a_next))
            a = dropout_forward(a_next, masks[k + 1])
        logits = linear_forward(a, layers[-1].weight, layers[-1].bias)
        cache.append((a, logits, logits))
        return logits, cache

    def backward(
        self,
        dlogits: Tensor,
        cache: Cache,
        *,
        input_gradient: bool = False,
        deltas: list[Tensor] | None = None,
        norm_deltas: list[Tensor] | None = None,
    ) -> Tensor | None:
        """Write every dW, db, dγ and dβ into ``flat_grad``; return dX ``(B, D)`` if ``input_gradient``, else None.

        Args:
            dlogits: dLoss/dlogits ``(B, K)``, from the loss's backward pass.
            cache: what ``forward`` returned for the same minibatch.
            input_gradient: whether to spend the further matrix product that dX costs.
            deltas: a list that gets every dZ_k ``(B, H)``, from the last layer to the first.
            norm_deltas: a list that gets every dN_k ``(B, H)``, from the last norm to the first.

        Raises:
            ValueError: ``dlogits`` has another shape than the logits.
        """
        # A product of another shape would resize the views it is written into, over their neighbours in flat_grad.
        if dlogits.shape != cache[-1][2].shape:
            raise ValueError(f"dlogits must be {tuple(cache[-1][2].shape)}, got {tuple(dlogits.shape)}")
        f_backward = ACTIVATIONS[self.activation].backward
        layers, norms = self.layers, self.norms
        dz = dlogits
        for k in range(len(layers) - 1, 0, -1):
            _, n, a = cache[k - 1]
            linear_backward(dz, cache[k][0], layers[k].dweight, layers[k].dbias)
            if deltas is not None:
                deltas.append(dz)
            da = dropout_backward(linear_backward_input(dz, layers[k].weight), cache.masks[k])
            dz = f_backward(da, n, a)
            if norms:
                if norm_deltas is not None:
                    norm_deltas.append(dz.clone())
                dz = self._norm_backward(k - 1, dz, cache)
        linear_backward(dz, cache[0][0], layers[0].dweight, layers[0].dbias)
        if deltas is not None:
            deltas.append(dz)
        if not input_gradient:
            return None
        return dropout_backward(linear_backward_input(dz, layers[0].weight), cache.masks[0])

    def _norm_backward(self, k: int, dn: Tensor, cache: Cache) -> Tensor:
        """dZ_k from dN_k; writes dγ_k and dβ_k."""
        norm, norm_cache = self.norms[k], cache.norms[k]
        dz, dgamma, dbeta = norm_backward_(norm, dn.to(norm_cache.z_hat.dtype), norm_cache)
        norm.dgamma.copy_(dgamma)
        norm.dbeta.copy_(dbeta)
        return dz.to(dn.dtype)
