"""The options ``data.deform``: by how much training images are deformed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mlp_lightning.errors import UserError

AMPLITUDES = ("elastic", "rotation", "scale", "shear", "shift", "flip", "noise", "cutout")
# The smallest and the largest legal value of each amplitude, and its unit.
RANGES = {
    "elastic": (0.0, math.inf, " (pixels)"),
    "rotation": (0.0, 180.0, " (degrees)"),
    "scale": (0.0, 0.99, ""),
    "shear": (0.0, math.inf, ""),
    "shift": (0.0, math.inf, " (pixels)"),
    "flip": (0.0, 1.0, ""),
    "noise": (0.0, math.inf, ""),
    "cutout": (0, math.inf, " (pixels)"),
    "end_strength": (0.0, math.inf, ""),
    "end_share": (0.0, 1.0, ""),
}


@dataclass(frozen=True)
class DeformOptions:
    """Deformations of the training images, drawn anew each time an image is trained on; all off by default.

    Args:
        elastic: Elastic deformation: root mean square of each component of the displacement, in pixels.
        sigma: Smoothness of the elastic field: standard deviation of the Gaussian that blurs it, in pixels.
        rotation: Largest angle, to either side, in degrees.
        scale: Largest change of width and of height, each on its own, as a fraction: 0.15 for 85 to 115 %.
        shear: Largest horizontal shear, in pixels per pixel of height.
        shift: Largest shift along each axis, in pixels; fractions count.
        class_rotation: Factors of rotation and shear by class name: {"1": 0.5, "7": 0.5} turns these half as far.
        flip: Probability of a mirror image, left for right.
        noise: Standard deviation of Gaussian noise added to each pixel, whose range is 0 to 1.
        cutout: Side of a square of zeros at a random place, in pixels; what lies outside the image is cut off.
        end_strength: Factor of elastic, rotation, scale, shear, shift and noise in the last epochs.
        end_share: Share of the epochs that are the last, rounded to whole epochs, at least one.

    Raises:
        UserError: a value is outside its range.
    """

    elastic: float = 0.0
    sigma: float = 5.5
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    class_rotation: dict[str, float] = field(default_factory=dict)
    flip: float = 0.0
    noise: float = 0.0
    cutout: int = 0
    end_strength: float = 1.0
    end_share: float = 0.05

    def __post_init__(self) -> None:
        for name, (low, high, unit) in RANGES.items():
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                allowed = f"at least {low:g} and finite" if math.isinf(high) else f"from {low:g} to {high:g}"
                raise UserError(f"data.deform.{name}: got {value}, must be {allowed}{unit}")
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise UserError(f"data.deform.sigma: got {self.sigma}, must be above zero and finite (pixels)")
        # YAML reads the names of digits as numbers.
        object.__setattr__(self, "class_rotation", {str(name): factor for name, factor in self.class_rotation.items()})
        for name, factor in self.class_rotation.items():
            if not (factor >= 0 and math.isfinite(factor)):
                raise UserError(f"data.deform.class_rotation: got {factor} for {name}, must be at least 0 and finite")

    @property
    def moves_pixels(self) -> bool:
        """Whether an image has to be read at other places than its pixels."""
        return any((self.elastic, self.rotation, self.scale, self.shear, self.shift, self.flip))

    @property
    def for_tests(self) -> "DeformOptions":
        """What may be done to an image whose class nobody knows, without losing a pixel."""
        return replace(self, class_rotation={}, noise=0.0, cutout=0)

    @property
    def is_on(self) -> bool:
        """Whether anything happens to an image."""
        return any(getattr(self, name) for name in AMPLITUDES)

    def __str__(self) -> str:
        """What is switched on, in words."""
        given = [f"{name} {value:g}" for name in AMPLITUDES if (value := getattr(self, name))]
        return ", ".join(given) or "nothing"

    def check_data(self, image_shape: Sequence[int], class_names: Sequence[str]) -> None:
        """Refuse data that cannot be deformed so.

        Raises:
            UserError: samples that are no images, or a class that there is not.
        """
        if not image_shape:
            raise UserError(f"data.deform: got {self}, but the samples of this data set are no images")
        for name in self.class_rotation:
            if name not in class_names:
                known = ", ".join(class_names)
                raise UserError(f"data.deform.class_rotation: got {name}, must be classes of the data set: {known}")

    def strength(self, epoch: int, epochs: float) -> float:
        """The factor of the amplitudes in epoch ``epoch`` of ``epochs``, counted from 0."""
        if math.isinf(epochs):
            return 1.0
        return self.end_strength if epoch >= epochs - max(1, round(self.end_share * epochs)) else 1.0
