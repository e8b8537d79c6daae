"""Deformed images for training: an affine map and a smooth random field, in one resampling; noise and cutout."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.nn.draws import Draws

# Share of the field's variance that may be left out with its finest modes.
LEFT_OUT = 1e-3


class Deform:
    """Deforms minibatches of images; the same (seed, step) and row deform in the same way, whoever asks.

    A pixel p of the new image, measured from the image's centre, takes the old image's value at

        q(p) = A⁻¹ (p − t) + u(p),    A = R(angle) · [[1, shear], [0, 1]] · diag(width, height)

    between whose pixels it interpolates linearly, and outside of which it is zero. Angle, shear, width, height and the
    shift t are uniform. Each component of u is a Gaussian field of the covariance ε² exp(−|p − p′|² / 4σ²): that of
    white noise blurred by a Gaussian of standard deviation σ, without the border that a blurred image has (Simard et
    al. 2003, section 2, draw uniform noise and blur it). Both parts of q are linear in few numbers a sample, so one
    product gives all coordinates of a minibatch: q = coefficients · basis, with the basis images 1, x, y and the modes
    of the field.

    Args:
        options: what to do.
        image_shape: (height, width) of the images, or (height, width, colours).
        class_names: K names, to find those of ``class_rotation``.
        epochs: of the whole training, which tells the last ones, at least 1; infinite for a training without end.
        seed: of the run.
        device: where the images are.

    """

    def __init__(
        self,
        options: DeformOptions,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        *,
        epochs: float = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.options, self.image_shape, self.epochs = options, image_shape, epochs
        self._draws = Draws(seed, "deform", device)
        factors = [options.class_rotation.get(name, 1.0) for name in class_names]
        self._class_rotation = torch.tensor(factors, device=device)
        height, width = image_shape[:2]
        y, x = (torch.arange(n) - (n - 1) / 2 for n in (height, width))
        affine = torch.stack([torch.ones(height * width), x.repeat(height), y.repeat_interleave(width)])
        modes = field_modes((height, width), options.sigma) * options.elastic if options.elastic else affine[:0]
        self._n_modes = len(modes)
        self._basis = torch.cat([affine, modes]).to(device)
        # Of coordinates in which the image reaches from −1 to 1.
        self._units = torch.tensor([[2 / width], [2 / height]], device=device)

    def __call__(
        self, x: Tensor, y: Tensor, *, epoch: int, step: int, first: int = 0, size: int | None = None
    ) -> Tensor:
        """Deformed copies of images.

        Args:
            x: this process's share of a minibatch, ``(B, height · width)``, times the colours of each pixel.
            y: its targets ``(B,)``.
            epoch: counted from 0.
            step: of the training, counted from 0.
            first: the place of the first of these images in the minibatch.
            size: images of the whole minibatch; None for B.
        """
        if not len(x):
            return x
        options, strength = self.options, self.options.strength(epoch, self.epochs)
        self._draws.start(step, len(x), first, size)
        out = x.to(torch.float32)
        if options.moves_pixels:
            out = resample(out, self._coordinates(y, strength), self.image_shape)
        if options.noise:
            out = out.add(self._draws.normal(out.shape[1]), alpha=options.noise * strength)
        if options.cutout:
            gone = self._squares().repeat_interleave(math.prod(self.image_shape[2:]), 1)
            out = out.masked_fill(gone, 0.0)
        return out.to(x.dtype)

    def copies(self, count: int, x: Tensor, y: Tensor, *, minibatch: int, **place: Any) -> Iterator[Tensor]:
        """``count`` deformed copies of a minibatch of a test.

        Deformations that were made without a number of epochs are always in their last one.

        Args:
            count: at least 1.
            x: as in a call.
            y: its targets, or zeros where nobody knows them and all classes are deformed alike.
            minibatch: its place in the test, counted from 0.
            place: ``first`` and ``size``, as in a call.
        """
        for k in range(count):
            yield self(x, y, epoch=0, step=minibatch * count + k, **place)

    def _coordinates(self, y: Tensor, strength: float) -> Tensor:
        """Where to read, ``(B, 2, height · width)``: x and y from −1 to 1."""
        affine = self._inverse_affine(y, strength)
        if self._n_modes:
            affine = torch.cat([affine, self._draws.normal(2, self._n_modes).mul_(strength)], 2)
        return ((affine * self._units).view(-1, affine.shape[2]) @ self._basis).view(len(y), 2, -1)

    def _inverse_affine(self, y: Tensor, strength: float) -> Tensor:
        """(−A⁻¹ t, A⁻¹) ``(B, 2, 3)``: constant, factor of x, factor of y of both coordinates."""
        options = self.options
        numbers = self._draws.uniform(7)
        angle, shear, wide, high, right, down, _ = numbers.mul(2 * strength).sub_(strength).unbind(1)
        turn = self._class_rotation.index_select(0, y)
        angle, shear = angle * turn * math.radians(options.rotation), shear * turn * options.shear
        right, down = right * options.shift, down * options.shift
        sin, cos = angle.sin(), angle.cos()
        # A mirror image comes first: its width is negative.
        width = (1 + options.scale * wide) * torch.where(numbers[:, 6] < options.flip, -1.0, 1.0)
        height = 1 + options.scale * high
        x_x, x_y = (cos + shear * sin) / width, (sin - shear * cos) / width
        y_x, y_y = -sin / height, cos / height
        rows = [-(x_x * right + x_y * down), x_x, x_y, -(y_x * right + y_y * down), y_x, y_y]
        return torch.stack(rows, 1).view(-1, 2, 3)

    def _squares(self) -> Tensor:
        """Which pixels lie in their image's square ``(B, height · width)``; its centre is any pixel, each as likely.

        DeVries & Taylor 2017, section 3.2.
        """
        inside = []
        for k, (n, place) in enumerate(zip(self.image_shape[:2], self._draws.uniform(2).unbind(1), strict=True)):
            start = (place * n).floor_().sub_(self.options.cutout // 2).unsqueeze(1)
            pixels = torch.arange(n, device=place.device)
            inside.append(((pixels >= start) & (pixels < start + self.options.cutout)).unsqueeze(2 - k))
        return (inside[0] & inside[1]).flatten(1)


def field_modes(image_shape: tuple[int, int], sigma: float) -> Tensor:
    """Images ``(M, height · width)`` whose sum with independent normal factors is a smooth field of variance 1.

    The covariance exp(−|p − p′|² / 4σ²) of two pixels is a product over the axes, and so are its eigenvectors: with
    K = V Λ Vᵀ along each, the modes are √(λᵢ λⱼ) vᵢ vⱼᵀ. The eigenvalues fall so fast that of the 784 modes of 28 × 28
    pixels 26 make a field of σ = 5.5. The variances of those that are kept are scaled to a mean of 1 over the pixels.
    """
    axes = []
    for n in image_shape:
        distance = torch.arange(n, dtype=torch.float64).unsqueeze(0) - torch.arange(n).unsqueeze(1)
        axes.append(torch.linalg.eigh((distance / (2 * sigma)).square_().neg_().exp_()))
    (high, down), (wide, across) = axes
    variances, order = torch.outer(high, wide).flatten().sort(descending=True)
    total = math.prod(image_shape)
    kept = int((variances.cumsum(0) < (1 - LEFT_OUT) * total).sum()) + 1
    i, j = order[:kept] // len(wide), order[:kept] % len(wide)
    modes = torch.einsum("hm,wm->mhw", down[:, i], across[:, j]).flatten(1)
    scales = variances[:kept] * (total / variances[:kept].sum())
    return (modes * scales.sqrt_().unsqueeze(1)).float()


def resample(x: Tensor, coordinates: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Bilinear values of images ``(B, D)`` at ``(B, 2, height · width)``; zero outside.

    Coordinates are (x, y) from −1 to 1 over the image, pixels being squares (``align_corners=False``). ``image_shape``
    is (height, width), or (height, width, colours), whose product is D.
    """
    height, width, *colours = image_shape
    grid = coordinates.view(len(x), 2, height, width).permute(0, 2, 3, 1)
    images = x.reshape(len(x), height, width, math.prod(colours)).permute(0, 3, 1, 2)
    read = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return read.permute(0, 2, 3, 1).reshape(len(x), -1)
