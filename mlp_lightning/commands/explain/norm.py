"""The norms and the dropout of a walk, on the way forward and on the way back."""

from torch import Tensor

from mlp_lightning.commands.explain.step import Phase, Step, moved, number, shape, source_of, subscript
from mlp_lightning.nn import MLP
from mlp_lightning.nn.dropout import dropout_backward, dropout_forward
from mlp_lightning.nn.mlp import Cache
from mlp_lightning.nn.norm import EPS, batch_norm_forward_, layer_norm_forward_


def dropout_step(cache: Cache, k: int, sample: int) -> list[Step]:
    """What layer k, counted from 1, reads of the activations before it; nothing where nothing is dropped."""
    mask = cache.masks[k - 1]
    if mask is None:
        return []
    kept, dropped = int((mask != 0).sum()), cache[k - 1][0]
    i, name = subscript(k - 1), source_name(k)
    return [
        Step(
            phase="forward",
            name=f"D{i}",
            formula=f"D{i} = {name} ⊙ M{i}, what dropout leaves of {name}",
            shapes=f"{shape(mask)} ⊙ {shape(mask)} → {shape(dropped)}",
            value=dropped,
            source=source_of(dropout_forward),
            bytes=moved(dropped, mask, dropped),
            numbers=f"{kept:,} of {mask.numel():,} entries are kept, each times {number(float(mask.max()))}",
            about=f"row {sample}",
            detail=dropped[sample],
            view="heat",
        )
    ]


def dropout_backward_step(mask: Tensor, dropped: Tensor, k: int, sample: int) -> Step:
    """dA_k from dD_k."""
    i = subscript(k)
    da = dropout_backward(dropped.clone(), mask)
    return _row("backward", f"dA{i}", f"dA{i} = dD{i} ⊙ M{i}", (dropped, mask), da, sample, source_of(dropout_backward))


def norm_steps(network: MLP, cache: Cache, k: int, z: Tensor, sample: int) -> list[Step]:
    """μ, σ², Ẑ and N of layer k, counted from 1; none without norm."""
    if not network.norms:
        return []
    norm, found, i = network.norms[k - 1], cache.norms[k - 1], subscript(k)
    sum_of, divisor, each = ("Σᵢ", "B", "unit") if network.norm == "batch" else ("Σₕ", "H", "sample")
    forward = batch_norm_forward_ if network.norm == "batch" else layer_norm_forward_
    source, n = source_of(forward), cache[k - 1][1]
    count = z.shape[0 if network.norm == "batch" else 1]
    about = f"row {sample}" if network.norm == "layer" else ""

    def statistic(name: str, terms: str, value: Tensor) -> Step:
        return Step(
            phase="forward",
            name=f"{name}{i}",
            formula=f"{name}{i} = {sum_of} {terms} / {divisor}, for each {each}",
            shapes=f"{shape(z)} → {shape(value)}",
            value=value,
            source=source,
            bytes=moved(z, value),
            numbers=f"{divisor} = {count}",
            about=about,
            detail=value[sample] if network.norm == "layer" else value,
            view="heat" if network.norm == "batch" else "none",
        )

    fraction = f"(Z{i} − μ{i}) / √(σ²{i} + ε)"
    z_hat = _row(
        "forward",
        f"Ẑ{i}",
        f"Ẑ{i} = {fraction},  ε = {number(EPS)}",
        (z, found.mean, found.var),
        found.z_hat,
        sample,
        source,
    )
    return [
        statistic("μ", f"Z{i}", found.mean),
        statistic("σ²", f"(Z{i} − μ{i})²", found.var),
        z_hat,
        _row("forward", f"N{i}", f"N{i} = γ{i} · Ẑ{i} + β{i}", (norm.gamma, found.z_hat, norm.beta), n, sample, source),
    ]


def norm_backward_steps(network: MLP, cache: Cache, k: int, dn: Tensor, dz: Tensor, sample: int) -> list[Step]:
    """dγ, dβ and dZ of layer k, counted from 1."""
    norm, found, i = network.norms[k - 1], cache.norms[k - 1], subscript(k)
    source = source_of(batch_norm_forward_)
    if network.norm == "batch":
        formula = f"dZ{i} = γ{i} / √(σ²{i} + ε) · (dN{i} − dβ{i}/B − Ẑ{i} · dγ{i}/B)"
    else:
        formula = f"dZ{i} = (dẐ − Σₕ dẐ / H − Ẑ{i} · Σₕ dẐ Ẑ{i} / H) / √(σ²{i} + ε),  dẐ = γ{i} · dN{i}"
    sums = [
        Step(
            phase="backward",
            name=f"d{symbol}{i}",
            formula=f"d{symbol}{i} = Σᵢ {terms}",
            shapes=f"Σ over rows of {shape(dn)} → {shape(value)}",
            # Copies: clipping works on the gradient in place.
            value=value.clone(),
            source=source,
            bytes=moved(*operands, value),
        )
        for symbol, terms, operands, value in (
            ("γ", f"dN{i} · Ẑ{i}", (dn, found.z_hat), norm.dgamma),
            ("β", f"dN{i}", (dn,), norm.dbeta),
        )
    ]
    operands = (dn, found.z_hat, norm.gamma, found.var)
    return [*sums, _row("backward", f"dZ{i}", formula, operands, dz, sample, source)]


def source_name(k: int) -> str:
    """The symbol of what layer k reads if nothing is dropped: X, or the activations before it."""
    return "X" if k == 1 else f"A{subscript(k - 1)}"


def input_name(cache: Cache, k: int) -> str:
    """The symbol of what layer k, counted from 1, reads."""
    return source_name(k) if cache.masks[k - 1] is None else f"D{subscript(k - 1)}"


def _row(
    phase: Phase, name: str, formula: str, operands: tuple[Tensor, ...], value: Tensor, sample: int, source: str
) -> Step:
    return Step(
        phase=phase,
        name=name,
        formula=formula,
        shapes=f"{', '.join(map(shape, operands))} → {shape(value)}",
        value=value,
        source=source,
        bytes=moved(*operands, value),
        about=f"row {sample}",
        detail=value[sample],
        view="heat",
    )
