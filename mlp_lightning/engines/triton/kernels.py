"""The kernels of a training step on a GPU, in Triton: each is a matrix product with all that follows it.

Rows lie ``stride`` numbers apart, of which those past the row's width are zeros. Strides are given in units of UNIT
numbers, for the compiler to know what they are multiples of, and load several numbers at a time. A row of ``numbers``
tells a step what its rule needs, so that one recorded launch serves any learning rate and any number of steps made:

    sgd        share, keep, keep_bias                        θ ← keep θ + share g
    momentum   share, keep, keep_bias, μ, 1 − τ, share_b     b ← μ b + (1 − τ) g,  θ ← keep θ + share g + share_b b
    adam       rate, keep, keep_bias, 1 − β1, β2, 1 − β2, ε  m and v move on,  θ ← keep θ − rate m / (√v + ε)
"""

import triton
import triton.language as tl


@triton.jit
def _begin(DEPENDENT: tl.constexpr):
    """Where launches are DEPENDENT: wait for what the kernel before has written, and let the next be launched.

    That one then waits here, its launch paid for, until this one ends.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _activated(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "sigmoid":
        return tl.sigmoid(z)
    elif ACTIVATION == "tanh":
        return 2 * tl.sigmoid(2 * z) - 1
    else:
        # A NaN stays one, which a maximum might not keep.
        return tl.where(z < 0, 0.0, z)


@triton.jit
def _through_activation(da, a, ACTIVATION: tl.constexpr):
    if ACTIVATION == "sigmoid":
        return da * (a * (1 - a))
    elif ACTIVATION == "tanh":
        return da * (1 - a * a)
    else:
        return tl.where(a > 0, da, 0.0)


@triton.jit
def _layer(
    x, weight, bias, row, column, rows, fan_out, x_stride, weight_stride, DEPTH: tl.constexpr, PRECISION: tl.constexpr
):
    """The tile of Z = X Wᵀ + b in which ``row`` and ``column`` meet."""
    z = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for start in range(0, weight_stride, DEPTH):
        k = start + tl.arange(0, DEPTH)
        within = k < weight_stride
        xs = tl.load(x + row[:, None] * x_stride + k[None, :], mask=(row < rows)[:, None] & within[None, :], other=0.0)
        of_units = weight + column[None, :] * weight_stride + k[:, None]
        weights = tl.load(of_units, mask=(column < fan_out)[None, :] & within[:, None], other=0.0)
        z = tl.dot(xs, weights, z, input_precision=PRECISION)
    return z + tl.load(bias + column, mask=column < fan_out, other=0.0)[None, :]


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x,
    weight,
    bias,
    out,
    rows,
    fan_out,
    x_stride,
    weight_stride,
    out_stride,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    OUT_UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """A = f(X Wᵀ + b), of a hidden layer."""
    _begin(DEPENDENT)
    x_stride, weight_stride, out_stride = x_stride * UNIT, weight_stride * UNIT, out_stride * OUT_UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    z = _layer(x, weight, bias, row, column, rows, fan_out, x_stride, weight_stride, DEPTH, PRECISION)
    a = tl.where((column < fan_out)[None, :], _activated(z, ACTIVATION), 0.0)
    inside = (row < rows)[:, None] & (column < out_stride)[None, :]
    tl.store(out + row[:, None] * out_stride + column[None, :], a.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "scale", "smoothing"])
def loss_kernel(
    x,
    weight,
    bias,
    targets,
    dlogits,
    partials,
    losses,
    rows,
    classes,
    scale,
    smoothing,
    x_stride,
    weight_stride,
    dlogits_stride,
    partials_stride,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """The last layer, softmax, cross-entropy and dlogits = scale (p − q); sums over ROWS samples of both."""
    _begin(DEPENDENT)
    x_stride, weight_stride = x_stride * UNIT, weight_stride * UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    is_row, is_class = row < rows, (column < classes)[None, :]
    z = _layer(x, weight, bias, row, column, rows, classes, x_stride, weight_stride, DEPTH, PRECISION)
    z = tl.where(is_class, z, -float("inf"))
    impossible = z == -float("inf")
    z -= tl.max(z, 1)[:, None]
    e = tl.exp(z)
    normalizer = tl.sum(e, 1)
    own = column[None, :] == tl.load(targets + row, mask=is_row, other=0)[:, None]
    q = tl.where(is_class, own.to(tl.float32) * (1 - smoothing) + smoothing / classes, 0.0)
    of_rows = tl.log(normalizer) - tl.sum(tl.where(q > 0, q * z, 0.0), 1)
    # Two finite logits may differ by more than the largest number: the loss is then that number, not infinity.
    largest = tl.minimum(of_rows, 3.4028234663852886e38, propagate_nan=tl.PropagateNan.ALL)
    of_rows = tl.where(tl.sum(tl.where(impossible, q, 0.0), 1) > 0, of_rows, largest)
    tl.store(losses + tl.program_id(0), tl.sum(tl.where(is_row, of_rows, 0.0), 0))
    d = tl.where(is_row[:, None], (e / normalizer[:, None] - q) * scale, 0.0)
    inside = is_row[:, None] & (column < dlogits_stride)[None, :]
    tl.store(dlogits + row[:, None] * dlogits_stride + column[None, :], d.to(dlogits.dtype.element_ty), mask=inside)
    tl.store(partials + tl.program_id(0) * partials_stride + column, tl.sum(d, 0), mask=column < classes)


@triton.jit(do_not_specialize=["rows"])
def delta_kernel(
    dz,
    weight,
    a,
    out,
    partials,
    rows,
    fan_in,
    fan_out,
    dz_stride,
    weight_stride,
    a_stride,
    partials_stride,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    DZ_UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """dZ of the layer before, (dZ W) · f′ in terms of its A, and the sums of that over ROWS samples."""
    _begin(DEPENDENT)
    weight_stride, a_stride, dz_stride = weight_stride * UNIT, a_stride * UNIT, dz_stride * DZ_UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    da = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, fan_out, DEPTH):
        k = start + tl.arange(0, DEPTH)
        within = (row < rows)[:, None] & (k < dz_stride)[None, :]
        dzs = tl.load(dz + row[:, None] * dz_stride + k[None, :], mask=within, other=0.0)
        within = (k < fan_out)[:, None] & (column < weight_stride)[None, :]
        weights = tl.load(weight + k[:, None] * weight_stride + column[None, :], mask=within, other=0.0)
        da = tl.dot(dzs, weights, da, input_precision=PRECISION)
    inside = (row < rows)[:, None] & (column < a_stride)[None, :]
    place = row[:, None] * a_stride + column[None, :]
    dx = _through_activation(da, tl.load(a + place, mask=inside, other=0.0).to(tl.float32), ACTIVATION)
    tl.store(out + place, dx.to(out.dtype.element_ty), mask=inside)
    tl.store(partials + tl.program_id(0) * partials_stride + column, tl.sum(dx, 0), mask=column < fan_in)


@triton.jit
def _moved(theta, m, v, numbers, keep, g, place, inside, RULE: tl.constexpr):
    """θ after its step, which is also stored."""
    new = tl.load(theta + place, mask=inside, other=0.0) * keep
    if RULE == "adam":
        first = tl.load(m + place, mask=inside, other=0.0)
        first += tl.load(numbers + 3) * (g - first)
        second = tl.load(numbers + 4) * tl.load(v + place, mask=inside, other=0.0) + tl.load(numbers + 5) * g * g
        tl.store(m + place, first, mask=inside)
        tl.store(v + place, second, mask=inside)
        new -= tl.load(numbers) * tl.div_rn(first, tl.sqrt_rn(second) + tl.load(numbers + 6))
    elif RULE == "momentum":
        b = tl.load(numbers + 3) * tl.load(m + place, mask=inside, other=0.0) + tl.load(numbers + 4) * g
        tl.store(m + place, b, mask=inside)
        new += tl.load(numbers) * g + tl.load(numbers + 5) * b
    else:
        new += tl.load(numbers) * g
    tl.store(theta + place, new, mask=inside)
    return new


@triton.jit
def _step_of_tile(
    g,
    theta,
    m,
    v,
    rounded,
    numbers,
    row,
    column,
    fan_in,
    fan_out,
    rounded_stride,
    RULE: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    inside = (row < fan_out)[:, None] & (column < fan_in)[None, :]
    place = row[:, None] * fan_in + column[None, :]
    new = _moved(theta, m, v, numbers, tl.load(numbers + 1), g, place, inside, RULE)
    if ROUNDS:
        place = row[:, None] * rounded_stride + column[None, :]
        tl.store(rounded + place, new.to(rounded.dtype.element_ty), mask=inside)


@triton.jit
def _gradient(dz, a, row, column, rows, dz_stride, a_stride, DEPTH: tl.constexpr, PRECISION: tl.constexpr):
    """The tile of dW = dZᵀ A in which ``row`` and ``column`` meet."""
    g = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for start in range(0, rows, DEPTH):
        k = start + tl.arange(0, DEPTH)
        within = (row < dz_stride)[:, None] & (k < rows)[None, :]
        dzs = tl.load(dz + k[None, :] * dz_stride + row[:, None], mask=within, other=0.0)
        within = (k < rows)[:, None] & (column < a_stride)[None, :]
        inputs = tl.load(a + k[:, None] * a_stride + column[None, :], mask=within, other=0.0)
        g = tl.dot(dzs, inputs, g, input_precision=PRECISION)
    return g


@triton.jit
def _keep(dweight, g, row, column, fan_in, fan_out):
    inside = (row < fan_out)[:, None] & (column < fan_in)[None, :]
    tl.store(dweight + row[:, None] * fan_in + column[None, :], g, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def weight_kernel(
    dz,
    a,
    dweight,
    rows,
    fan_in,
    fan_out,
    dz_stride,
    a_stride,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    DZ_UNIT: tl.constexpr,
    FAN_IN_UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """dW = dZᵀ A of one layer, kept."""
    dz_stride, a_stride, fan_in = dz_stride * DZ_UNIT, a_stride * UNIT, fan_in * FAN_IN_UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    g = _gradient(dz, a, row, column, rows, dz_stride, a_stride, DEPTH, PRECISION)
    _keep(dweight, g, row, column, fan_in, fan_out)


@triton.jit(do_not_specialize=["rows", "keeps", "n_partials"])
def descent_kernel(
    dz,
    a,
    dweight,
    theta,
    m,
    v,
    rounded,
    fan_in,
    fan_out,
    dz_stride,
    a_stride,
    rounded_stride,
    partials,
    dbias,
    bias,
    m_of_bias,
    v_of_bias,
    totals,
    numbers,
    rows,
    n_biases,
    n_partials,
    keeps,
    FIRST: tl.constexpr,
    UNITS: tl.constexpr,
    DZ_UNITS: tl.constexpr,
    FAN_IN_UNITS: tl.constexpr,
    RULE: tl.constexpr,
    ROUNDS: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTIALS: tl.constexpr,
    BIASES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """dW = dZᵀ A of some layers, the steps on their W, db of all layers, and the step on b: one launch.

    What belongs to single layers comes as tuples; the programs of the k-th begin at ``FIRST[k]``, the last ones do the
    biases.
    """
    _begin(DEPENDENT)
    program = tl.program_id(0)
    for k in tl.static_range(len(FIRST) - 1):
        if (program >= FIRST[k]) & (program < FIRST[k + 1]):
            width = fan_in[k] * FAN_IN_UNITS[k]
            across = tl.cdiv(width, COLUMNS)
            row = (program - FIRST[k]) // across * ROWS + tl.arange(0, ROWS)
            column = (program - FIRST[k]) % across * COLUMNS + tl.arange(0, COLUMNS)
            dz_width, a_width = dz_stride[k] * DZ_UNITS[k], a_stride[k] * UNITS[k]
            g = _gradient(dz[k], a[k], row, column, rows, dz_width, a_width, DEPTH, PRECISION)
            if keeps:
                _keep(dweight[k], g, row, column, width, fan_out[k])
            # fmt: off
            _step_of_tile(
                g, theta[k], m[k], v[k], rounded[k], numbers, row, column, width, fan_out[k],
                rounded_stride[k] * UNITS[k], RULE, ROUNDS,
            )
            # fmt: on
    if program >= FIRST[len(FIRST) - 1]:
        of_biases = program - FIRST[len(FIRST) - 1]
        column = of_biases * BIASES + tl.arange(0, BIASES)
        inside = column < n_biases
        db = tl.zeros((BIASES,), tl.float32)
        for start in range(0, n_partials, PARTIALS):
            part = start + tl.arange(0, PARTIALS)
            within = (part < n_partials)[:, None] & inside[None, :]
            db += tl.sum(tl.load(partials + part[:, None] * n_biases + column[None, :], mask=within, other=0.0), 0)
        tl.store(dbias + column, db, mask=inside)
        _moved(bias, m_of_bias, v_of_bias, numbers, tl.load(numbers + 2), db, column, inside, RULE)
        tl.store(totals + of_biases, tl.sum(db, 0))


@triton.jit
def update_kernel(
    dweight,
    theta,
    m,
    v,
    rounded,
    numbers,
    fan_in,
    fan_out,
    rounded_stride,
    RULE: tl.constexpr,
    ROUNDS: tl.constexpr,
    UNIT: tl.constexpr,
    FAN_IN_UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The step on W from a dW that was kept."""
    fan_in, rounded_stride = fan_in * FAN_IN_UNIT, rounded_stride * UNIT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < fan_out)[:, None] & (column < fan_in)[None, :]
    g = tl.load(dweight + row[:, None] * fan_in + column[None, :], mask=inside, other=0.0)
    _step_of_tile(g, theta, m, v, rounded, numbers, row, column, fan_in, fan_out, rounded_stride, RULE, ROUNDS)


@triton.jit
def total_kernel(losses, totals, results, n_losses, n_totals, COLUMNS: tl.constexpr):
    """The summed loss of each step, and that plus its sum of db, which tells whether the step was finite."""
    step, column = tl.program_id(0), tl.arange(0, COLUMNS)
    loss, total = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, n_losses, COLUMNS):
        loss += tl.load(losses + step * n_losses + start + column, mask=start + column < n_losses, other=0.0)
    for start in range(0, n_totals, COLUMNS):
        total += tl.load(totals + step * n_totals + start + column, mask=start + column < n_totals, other=0.0)
    tl.store(results + 2 * step, tl.sum(loss, 0))
    tl.store(results + 2 * step + 1, tl.sum(loss, 0) + tl.sum(total, 0))
