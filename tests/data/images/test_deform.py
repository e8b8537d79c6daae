"""Deformations, read off by what they do to images whose grey value tells where it was."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from mlp_lightning.data.batches import Batches
from mlp_lightning.data.images.deform import Deform, field_modes, resample
from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.errors import UserError

SHAPE = (33, 41)
CENTRE = ((SHAPE[0] - 1) / 2, (SHAPE[1] - 1) / 2)
NAMES = ("zero", "one")
# Of a statistic of n independent numbers.
DEVIATIONS = 5


def deform(options: DeformOptions, shape: tuple[int, ...] = SHAPE, **settings) -> Deform:
    return Deform(options, shape, NAMES, **settings)


def apply(options: DeformOptions, x: Tensor, *, step: int = 3, epoch: int = 0, y: Tensor | None = None, **place):
    height = {SHAPE[0] * SHAPE[1]: SHAPE}.get(x.shape[1], (28, 28))
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    return deform(options, height)(x, y, epoch=epoch, step=step, **place)


def places(options: DeformOptions, n: int, y: Tensor | None = None, **settings) -> tuple[Tensor, Tensor]:
    """Where the pixels of n images are read, as (x, y) from the centre, ``(n, H, W)`` each.

    Between pixels a ramp is what it would be there; far outside of them nothing is known.
    """
    rows, columns = (
        torch.arange(size, dtype=torch.float32) - centre for size, centre in zip(SHAPE, CENTRE, strict=True)
    )
    # Lifted, so that a place outside the image, which reads as 0, is not taken for the centre.
    ramps = columns.expand(SHAPE) + 1000, rows.unsqueeze(1).expand(SHAPE) + 1000
    y = torch.zeros(n, dtype=torch.int64) if y is None else y
    change = deform(options, **settings)
    read = [change(ramp.reshape(1, -1).expand(n, -1), y, epoch=0, step=5).view(n, *SHAPE) - 1000 for ramp in ramps]
    return read[0], read[1]


def affine(options: DeformOptions, n: int, y: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A⁻¹ ``(n, 2, 2)`` and −A⁻¹ t ``(n, 2)``, from three pixels around the centre."""
    maps = torch.stack(places(options, n, y), 1).double().numpy()
    (row, column), near = (int(c) for c in CENTRE), 4
    middle = maps[:, :, row, column]
    right, down = maps[:, :, row, column + near] - middle, maps[:, :, row + near, column] - middle
    return np.stack([right, down], 2) / near, middle


def assert_uniform(values: np.ndarray, low: float, high: float, slack: float = 1e-3) -> None:
    assert low - slack <= values.min() <= values.max() <= high + slack
    spread = (high - low) / math.sqrt(12)
    assert abs(values.mean() - (low + high) / 2) < DEVIATIONS * spread / math.sqrt(len(values))
    assert values.std() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("shape", [(28, 28), (3, 4), (1, 5)], ids=str)
def test_resampling_is_scipys(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, math.prod(shape), generator=generator)
    # Up to half the image's size outside of it.
    coordinates = torch.rand(6, 2, math.prod(shape), generator=generator) * 4 - 2
    ours = resample(x, coordinates, shape)
    height, width = shape
    columns, rows = (coordinates.double().numpy() + 1).transpose(1, 0, 2) * np.array([width, height])[
        :, None, None
    ] / 2 - 0.5
    for image, row, column, found in zip(x.numpy(), rows, columns, ours, strict=True):
        expected = ndimage.map_coordinates(image.reshape(shape), [row, column], order=1, mode="grid-constant", cval=0)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_every_part_of_the_affine_map_is_uniform_and_in_its_place():
    options = DeformOptions(rotation=20, scale=0.2, shear=0.3, shift=1.5)
    n = 2000
    inverse, constant = affine(options, n)
    a = np.linalg.inv(inverse)
    shift = -np.einsum("nij,nj->ni", a, constant)
    # A = R · [[1, shear], [0, 1]] · diag(width, height): the first column is turned and stretched, no more.
    angle, width = np.arctan2(a[:, 1, 0], a[:, 0, 0]), np.linalg.norm(a[:, :, 0], axis=1)
    turned = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([-np.sin(angle), np.cos(angle)], 1)
    along, height = (np.einsum("ni,ni->n", a[:, :, 1], axis) for axis in turned)
    parts = [np.degrees(angle), width, height, along / height, shift[:, 0], shift[:, 1]]
    for values, (low, high) in zip(
        parts, [(-20, 20), (0.8, 1.2), (0.8, 1.2), (-0.3, 0.3), (-1.5, 1.5), (-1.5, 1.5)], strict=True
    ):
        assert_uniform(values, low, high)
    apart = np.corrcoef(parts) - np.eye(6)
    assert np.abs(apart).max() < DEVIATIONS / math.sqrt(n)


@pytest.mark.parametrize(
    ("options", "inverse"),
    [
        ({"rotation": 30}, lambda m: [[m[0, 0], m[0, 1]], [-m[0, 1], m[0, 0]]]),
        ({"scale": 0.3}, lambda m: [[m[0, 0], 0], [0, m[1, 1]]]),
        ({"shear": 0.5}, lambda m: [[1, m[0, 1]], [0, 1]]),
        ({"shift": 3}, lambda m: [[1, 0], [0, 1]]),
        ({"flip": 0.5}, lambda m: [[np.sign(m[0, 0]), 0], [0, 1]]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_part_alone(options, inverse):
    found, constant = affine(DeformOptions(**options), 50)
    for matrix in found:
        np.testing.assert_allclose(matrix, inverse(matrix), atol=1e-3)
    assert (np.abs(constant).max() > 0.1) == ("shift" in options)


def test_the_map_is_the_same_affine_one_at_every_pixel():
    x, y = (part.double().numpy() for part in places(DeformOptions(rotation=20, scale=0.1, shear=0.1, shift=1), 5))
    inverse, constant = affine(DeformOptions(rotation=20, scale=0.1, shear=0.1, shift=1), 5)
    rows, columns = np.meshgrid(*(np.arange(size) - c for size, c in zip(SHAPE, CENTRE, strict=True)), indexing="ij")
    expected = np.einsum("nij,jhw->nihw", inverse, np.stack([columns, rows])) + constant[:, :, None, None]
    inside = (np.abs(expected[:, 0]) < CENTRE[1]) & (np.abs(expected[:, 1]) < CENTRE[0])
    assert inside.mean() > 0.8
    np.testing.assert_allclose(x[inside], expected[:, 0][inside], atol=5e-3)
    np.testing.assert_allclose(y[inside], expected[:, 1][inside], atol=5e-3)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_come_as_often_as_asked(probability):
    x = torch.rand(1000, 784, generator=torch.Generator().manual_seed(0))
    out = apply(DeformOptions(flip=probability, shift=1e-9), x)
    flipped = torch.isclose(out, x.view(-1, 28, 28).flip(2).reshape(-1, 784), atol=1e-4).all(1)
    assert torch.isclose(out[~flipped], x[~flipped], atol=1e-4).all()
    assert abs(flipped.float().mean() - probability) <= DEVIATIONS * math.sqrt(probability * (1 - probability) / 1000)


@pytest.mark.parametrize(
    ("shape", "sigma"), [((28, 28), 5.5), ((28, 28), 2.0), ((5, 17), 4.0), ((1, 9), 1.0), ((6, 6), 0.1)], ids=str
)
def test_the_modes_are_those_of_blurred_white_noise(shape, sigma):
    modes = field_modes(shape, sigma).double().numpy()
    # White noise on a wide line, blurred by scipy, and of the line's middle as much as the image has.
    axes = []
    for n in shape:
        margin = math.ceil(8 * sigma) + 2
        if sigma < 0.5:
            axes.append(np.eye(n))
            continue
        blur = ndimage.gaussian_filter1d(np.eye(n + 2 * margin), sigma, axis=0, truncate=8)[margin : margin + n]
        covariance = blur @ blur.T
        axes.append(covariance / covariance[0, 0])
    np.testing.assert_allclose(modes.T @ modes, np.kron(*axes), atol=0.02)
    assert np.trace(modes.T @ modes) == pytest.approx(math.prod(shape), rel=1e-6)


def test_few_modes_make_a_smooth_field():
    assert len(field_modes((28, 28), 5.5)) == 26
    assert len(field_modes((28, 28), 1e6)) == 1


def test_the_field_moves_as_far_and_as_smoothly_as_asked():
    n, size, sigma = 600, 1.5, 4.0
    x, y = places(DeformOptions(elastic=size, sigma=sigma), n)
    rows, columns = (torch.arange(length) - centre for length, centre in zip(SHAPE, CENTRE, strict=True))
    # Away from the border nothing is read from outside.
    inner = slice(None), slice(10, 23), slice(10, 31)
    fields = [(x - columns)[inner].double(), (y - rows.unsqueeze(1))[inner].double()]
    for field in fields:
        assert field.square().mean().sqrt() == pytest.approx(size, rel=0.06)
        assert field.square().mean((1, 2)).std() > 0.2  # each image has a field of its own
        for distance in (1, 4, 8):
            expected = size**2 * math.exp(-(distance**2) / (4 * sigma**2))
            for axis in (1, 2):
                length = field.shape[axis] - distance
                product = field.narrow(axis, 0, length) * field.narrow(axis, distance, length)
                assert product.mean() == pytest.approx(expected, rel=0.15)
    assert abs((fields[0] * fields[1]).mean()) < 0.1 * size**2


ALL = DeformOptions(
    elastic=1.1, rotation=15, scale=0.15, shear=0.1, shift=1, noise=0.1, end_strength=0.5, end_share=0.25
)


def images(n: int = 12, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 784, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_strength_zero_changes_nothing():
    x = images()
    out = deform(replace(ALL, end_strength=0.0), (28, 28), epochs=4)(x, torch.zeros(12).long(), epoch=3, step=0)
    torch.testing.assert_close(out, x, rtol=0, atol=2e-5)


def test_strength_multiplies_every_amplitude():
    half = {name: getattr(ALL, name) / 2 for name in ("elastic", "rotation", "scale", "shear", "shift", "noise")}
    x, y = images(), torch.zeros(12).long()
    at_the_end = deform(ALL, (28, 28), epochs=4)(x, y, epoch=3, step=7)
    weaker = replace(ALL, **half, end_strength=1.0)
    torch.testing.assert_close(at_the_end, deform(weaker, (28, 28))(x, y, epoch=0, step=7))
    assert not torch.allclose(at_the_end, deform(ALL, (28, 28), epochs=4)(x, y, epoch=2, step=7), atol=0.1)


@pytest.mark.parametrize(
    ("share", "epochs", "first"),
    [(0.05, 200, 190), (0.05, 15, 14), (0.05, 1, 0), (0.5, 3, 1), (1.0, 7, 0), (0.0, 9, 8)],
)
def test_the_last_epochs(share, epochs, first):
    options = DeformOptions(end_strength=0.5, end_share=share)
    assert [options.strength(epoch, epochs) for epoch in range(epochs)] == [1.0] * first + [0.5] * (epochs - first)
    assert options.strength(10**6, math.inf) == 1


def test_a_class_is_turned_and_sheared_by_its_factor():
    n = 40
    y = torch.arange(n) % 2
    options = DeformOptions(rotation=20, shear=0.4, class_rotation={"one": 0.25})
    angles, alone = [], DeformOptions(rotation=20, class_rotation={"one": 0.25})
    for given in (alone, replace(alone, class_rotation={})):
        inverse, _ = affine(given, n, y)
        angles.append(np.arctan2(inverse[:, 0, 1], inverse[:, 0, 0]))
    np.testing.assert_allclose(angles[0], angles[1] * np.where(y, 0.25, 1), atol=1e-3)
    still, _ = affine(replace(options, class_rotation={"one": 0}), n, y)
    np.testing.assert_allclose(still[y == 1], np.broadcast_to(np.eye(2), (n // 2, 2, 2)), atol=1e-3)
    assert np.abs(still[y == 0] - np.eye(2)).max() > 0.1


def test_noise_has_its_deviation_and_its_own_number_for_each_pixel():
    noise = apply(DeformOptions(noise=0.2), torch.full((200, 784), 0.5)) - 0.5
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert abs(noise.mean()) < 0.005
    for alike in (noise[:20], noise[:, :20].T):
        apart = torch.corrcoef(alike) - torch.eye(20)
        assert apart.abs().max() < DEVIATIONS / math.sqrt(alike.shape[1])


@pytest.mark.parametrize("side", [1, 4, 7, 28, 80])
def test_cutout_is_a_square_with_its_centre_in_the_image(side):
    n = 800
    gone = (apply(DeformOptions(cutout=side), torch.ones(n, 784)) == 0).view(n, 28, 28)
    high, wide = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), high * wide)
    # Each centre is as likely, and what would lie outside is cut off.
    lengths = [len(set(range(c - side // 2, c - side // 2 + side)) & set(range(28))) for c in range(28)]
    assert sorted(set(high.tolist())) == sorted(set(wide.tolist())) == sorted(set(lengths))
    spread = np.std(lengths) * np.mean(lengths) * 3 / math.sqrt(n) + 1e-9
    assert (high * wide).double().mean() == pytest.approx(np.mean(lengths) ** 2, abs=DEVIATIONS * spread)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_round_the_same_images(dtype):
    x, options = images(dtype=dtype), replace(ALL, cutout=5)
    out = apply(options, x)
    assert out.dtype == dtype
    torch.testing.assert_close(out, apply(options, x.float()).to(dtype))


def test_the_colours_of_a_pixel_go_together():
    options = replace(ALL, cutout=5, noise=0.0)
    grey = images()
    # As (height, width, colours): red, and half as bright, and none.
    colours = torch.stack([grey, grey / 2, grey * 0], 2).flatten(1)
    y = torch.zeros(12, dtype=torch.int64)
    out = deform(options, (28, 28, 3))(colours, y, epoch=0, step=3).view(12, 784, 3)
    alone = deform(options, (28, 28))(grey, y, epoch=0, step=3)
    torch.testing.assert_close(out, torch.stack([alone, alone / 2, alone * 0], 2))
    assert len(deform(ALL, (28, 28, 3))(colours, y, epoch=0, step=3)[0].view(784, 3).std(1).unique()) > 700


def test_samples_that_train_stay_as_they_are():
    x = images()
    before = x.clone()
    for options in (ALL, DeformOptions(cutout=9), DeformOptions(noise=1)):
        assert not torch.equal(apply(options, x), x)
        assert torch.equal(x, before)


def test_seed_and_step_and_row_tell_the_deformation():
    x, y = images(1).expand(4, -1), torch.zeros(4).long()
    state = torch.get_rng_state()
    first, again = (deform(ALL, (28, 28), seed=1)(x, y, epoch=0, step=2) for _ in range(2))
    assert torch.equal(first, again)
    other_step = deform(ALL, (28, 28), seed=1)(x, y, epoch=0, step=3)
    other_seed = deform(ALL, (28, 28), seed=2)(x, y, epoch=0, step=2)
    everything = torch.cat([first, other_step, other_seed])
    assert len(everything.unique(dim=0)) == 12
    assert torch.equal(torch.get_rng_state(), state)


def loader(rank: int = 0, world_size: int = 1, **options) -> Batches:
    change = deform(replace(ALL, cutout=3), (28, 28), seed=4)
    return Batches(
        images(50), torch.arange(50) % 2, 16, seed=4, rank=rank, world_size=world_size, deform=change, **options
    )


@pytest.mark.parametrize(
    "options", [{"shuffle": True}, {}, {"per_batch": True}], ids=["shuffled", "in order", "per batch"]
)
@pytest.mark.parametrize("world_size", [2, 3, 20])
def test_any_number_of_processes_trains_on_the_same_images(options, world_size):
    alone = list(loader(**options))
    together = list(zip(*(loader(rank, world_size, **options) for rank in range(world_size)), strict=True))
    for batch, shares in zip(alone, together, strict=True):
        torch.testing.assert_close(torch.cat([share.x for share in shares]), batch.x, rtol=0, atol=1e-5)
        assert torch.equal(torch.cat([share.y for share in shares]), batch.y)


def test_only_samples_that_train_are_deformed():
    plain, deformed = Batches(images(50), torch.arange(50), 16, per_batch=True), loader(per_batch=True)
    for before, after in zip(plain, deformed, strict=True):
        assert torch.equal(before.val_x, after.val_x)
        assert not torch.allclose(before.x, after.x, atol=0.1)


def test_an_epoch_goes_on_with_the_same_images_and_the_next_one_has_others():
    straight = loader(shuffle=True)
    straight.set_epoch(2)
    expected = list(straight)
    resumed = loader(shuffle=True)
    resumed.load_state_dict({"handed_out": 2, "epoch": 2})
    resumed.set_epoch(2)
    rest = list(resumed)
    assert len(rest) == 2
    assert all(torch.equal(ours.x, theirs.x) for ours, theirs in zip(rest, expected[2:], strict=True))
    in_order, later = loader(), loader()
    later.set_epoch(1)
    assert all(not torch.equal(a.x, b.x) for a, b in zip(in_order, later, strict=True))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("elastic", -0.1, "at least 0 and finite (pixels)"),
        ("elastic", math.nan, "at least 0 and finite (pixels)"),
        ("shift", math.inf, "at least 0 and finite (pixels)"),
        ("sigma", 0.0, "above zero and finite (pixels)"),
        ("sigma", math.inf, "above zero and finite (pixels)"),
        ("rotation", 181.0, "from 0 to 180 (degrees)"),
        ("scale", 1.0, "from 0 to 0.99"),
        ("shear", -1.0, "at least 0 and finite"),
        ("flip", 1.5, "from 0 to 1"),
        ("noise", -1.0, "at least 0 and finite"),
        ("cutout", -1, "at least 0 and finite (pixels)"),
        ("end_strength", -0.5, "at least 0 and finite"),
        ("end_share", 1.01, "from 0 to 1"),
    ],
)
def test_options_out_of_range(name, value, allowed):
    with pytest.raises(UserError) as caught:
        DeformOptions(**{name: value})
    assert str(caught.value) == f"data.deform.{name}: got {value}, must be {allowed}"


@pytest.mark.parametrize("factor", [-1.0, math.inf, math.nan])
def test_factors_of_classes_out_of_range(factor):
    with pytest.raises(UserError, match=rf"^data\.deform\.class_rotation: got {factor} for 1, must be at least 0"):
        DeformOptions(class_rotation={"1": factor})


def test_data_that_cannot_be_deformed():
    with pytest.raises(UserError, match=r"^data\.deform: got elastic 1.1, .* no images"):
        ALL.check_data((), NAMES)
    with pytest.raises(UserError, match=r"^data\.deform\.class_rotation: got 7, must be classes .*: zero, one$"):
        DeformOptions(class_rotation={7: 0.5}).check_data((28, 28), NAMES)


@pytest.mark.gpu
def test_on_cuda():
    x, y = images(), torch.zeros(12).long()
    change = deform(replace(ALL, cutout=3), (28, 28), device="cuda")
    out = change(x.cuda(), y.cuda(), epoch=0, step=0)
    assert out.is_cuda
    assert torch.equal(out, change(x.cuda(), y.cuda(), epoch=0, step=0))
    turned = deform(DeformOptions(flip=1.0), (28, 28), device="cuda")(x.cuda(), y.cuda(), epoch=0, step=0)
    torch.testing.assert_close(turned.cpu(), x.view(-1, 28, 28).flip(2).reshape(-1, 784), rtol=0, atol=1e-4)


def test_copies_of_neighbouring_minibatches_share_no_draw():
    x, y = images(1).expand(2, -1), torch.zeros(2).long()
    change = deform(ALL, (28, 28), seed=1)
    copies = [copy for k in range(4) for copy in change.copies(3, x, y, minibatch=k)]
    assert len(torch.cat(copies).unique(dim=0)) == 4 * 3 * 2
