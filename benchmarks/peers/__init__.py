"""The contenders of the races: who they are, where they live, what they need."""

import shutil
from importlib.util import find_spec
from typing import NamedTuple


class Entry(NamedTuple):
    """Module and class of a ``Peer``, what it is made with beside the task, and the packages or tools it needs."""

    module: str
    peer: str
    settings: dict[str, str] = {}  # noqa: RUF012 (a row of a constant table)
    packages: tuple[str, ...] = ()
    compiler: bool = False

    def missing(self) -> str | None:
        """Why it cannot take part, in words; None if it can."""
        for package in self.packages:
            if find_spec(package) is None:
                return f"{package} not installed"
        if self.compiler and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            return "no C++ compiler"
        return None


ENTRIES = {
    "hand loop": Entry("hand_loop", "HandLoop"),
    "fit": Entry("fit_command", "FitCommand"),
    "fit, bf16-mixed": Entry("fit_command", "FitCommand", {"precision": "bf16-mixed"}),
    "trainer": Entry("hand_trainer", "HandTrainer"),
    "autograd": Entry("autograd", "Autograd"),
    "autograd, compiled": Entry("autograd", "Autograd", {"mode": "compiled"}, compiler=True),
    "autograd, bf16 autocast": Entry("autograd", "Autograd", {"mode": "bf16"}),
    "JAX": Entry("jax_scan", "JaxScan", packages=("jax",)),
    "Keras on JAX": Entry("keras_fit", "KerasFit", packages=("jax", "keras")),
    "scikit-learn": Entry("scikit_learn", "ScikitLearn", packages=("sklearn",)),
    "Lightning, tensors": Entry("lightning_automatic", "LightningAutomatic", {"loader": "tensors"}),
    "Lightning, images": Entry("lightning_automatic", "LightningAutomatic", {"loader": "images"}),
}
