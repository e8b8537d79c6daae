"""What both estimators are: samples to tensors, a loop over epochs, and what is kept of a training."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from mlp_lightning.data.batches import Batches
from mlp_lightning.epochs import Record, Validation, line_of, run_epochs
from mlp_lightning.errors import UserError
from mlp_lightning.loop import EVALUATED_ROWS, Loop
from mlp_lightning.nn import MLP
from mlp_lightning.nn.losses import Loss
from mlp_lightning.sklearn.log import log_to
from mlp_lightning.sklearn.loops import Length, Paused, continued, new_loop, paused
from mlp_lightning.sklearn.parameters import named_as_parameters, resolved
from mlp_lightning.sklearn.samples import KINDS, Part, Samples, checked, split, tensor_of
from mlp_lightning.training.recipes import (
    check_options,
    network_of,
)

Callback = Callable[["Estimator", Record], bool | None]
DTYPES = {"32-true": torch.float32, "64-true": torch.float64}
# Up to so many samples in all epochs a training is in 64 bits: it takes no longer than to wait for a compiler, and its
# results do not depend on how sums are ordered.
FEW_SAMPLES = 10_000
# What needs no end of the training.
ENDLESS = {"schedule": ("constant", "step"), "averaging": ("none", "ema")}


class Estimator(BaseEstimator):
    """Trains a network on arrays, in memory.

    Attributes:
        network_: the trained network; with averaged weights, or those of the best epoch, where they are wanted.
        history_: a list for each of ``epoch``, ``step``, ``train/loss`` and what validates, with a value an epoch.
        n_iter_: epochs of the last ``fit``.
        loss_: the training loss of the last epoch, of each minibatch before its step.
        n_features_in_: D.
        feature_names_in_: D names, where a frame was given.
    """

    network_: MLP
    history_: dict[str, list[float]]
    n_features_in_: int
    _loop: Loop | Paused

    @abstractmethod
    def _learn(self, samples: Samples, *, again: bool) -> NDArray[Any]:
        """Learn from targets what they are, or check that they are still; returns them as numbers."""

    @abstractmethod
    def _make_loss(self, options: Mapping[str, Any], samples: Samples) -> Loss:
        """The loss with reduction ``sum``."""

    @abstractmethod
    def _targets(self, samples: Samples, loss: Loss, dtype: torch.dtype) -> Tensor:
        """What a loss takes of targets that ``_learn`` returned."""

    @abstractmethod
    def _judge(self, outputs: Tensor, y: NDArray[Any]) -> Record:
        """The score of outputs, by its name."""

    @property
    @abstractmethod
    def _width(self) -> int:
        """K, the width of the last layer."""

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        eval_set: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Self:
        """Train on samples, from initial weights unless ``warm_start`` continues with those of the last ``fit``.

        Args:
            X: array, frame or sparse matrix ``(N, D)``; the training holds it dense.
            y: the targets.
            sample_weight: ``(N,)``; a weight of 2 equals the sample twice, one of 0 leaves it out.
            eval_set: (X, y) to evaluate after every epoch, and for ``patience``.

        Raises:
            ValueError: a parameter outside its range, samples that do not fit, or a training that diverges.
        """
        with named_as_parameters():
            continues = self.warm_start and hasattr(self, "_loop")
            samples = self._take(X, y, sample_weight, again=continues)
            options = self._options(len(samples.y))
            if eval_set is None:
                samples, held_out = split(samples, options["validation_fraction"], options["patience"], options["seed"])
            elif isinstance(eval_set, tuple) and len(eval_set) == 2:
                held_out = self._take(*eval_set, None, again=True)
            else:
                raise UserError(f"eval_set: got a {type(eval_set).__name__}, must be a tuple (X, y)")
            n = len(samples.y)
            steps, dtype = -(-n // options["batch_size"]), self._dtype(options, n * options["epochs"])
            loop = new_loop(
                options,
                self._make_loss(options, samples),
                self._loop.network if continues else self._network(options, dtype),
                Length(steps, options["epochs"] * steps),
            )
            if not continues:
                self.history_ = {}
            self.n_iter_ = 0
            self._run(loop, samples, held_out, options)
        return self

    def _partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        with named_as_parameters():
            again = hasattr(self, "_loop")
            samples = self._take(X, y, sample_weight, again=again)
            options = self._options(len(samples.y)) | {"epochs": 1, "patience": None}
            for name, endless in ENDLESS.items():
                if options[name] not in endless:
                    raise UserError(
                        f"{name}: got {options[name]}, which needs an end, but partial_fit has none; "
                        f"must be one of {', '.join(endless)}"
                    )
            length = Length(-(-len(samples.y) // options["batch_size"]), float("inf"))
            loss = self._make_loss(options, samples)
            if again:
                loop = continued(self._loop, options, loss, length, self.network_)
            else:
                loop = new_loop(options, loss, self._network(options, DTYPES["32-true"]), length)
            if not again:
                self.history_, self.n_iter_ = {}, 0
            self._run(loop, samples, None, options)
        return self

    def _network(self, options: dict[str, Any], dtype: torch.dtype) -> MLP:
        return network_of(options, (self.n_features_in_, *options["hidden"], self._width), dtype)

    def _run(self, loop: Loop, samples: Samples, held_out: Samples | None, options: dict[str, Any]) -> None:
        """Train for so many epochs, or until nothing improves or a callback ends it."""
        part, validation = self._part(samples, loop), None if held_out is None else self._part(held_out, loop)
        batches = Batches(part.x, part.targets, options["batch_size"], shuffle=self.shuffle, seed=options["seed"])
        self._loop, self.network_ = loop, loop.evaluated_network
        whole = None if validation is None else Validation(validation.x, validation.targets, self._judge_of(validation))
        records = run_epochs(loop, batches, options["epochs"], whole, options["patience"])
        # Closed, it leaves the best weights.
        with log_to(options["log_dir"]) as log, closing(records):
            for record in records:
                self._note(loop, record, log)
                ends = [callback(self, record) for callback in options["callbacks"] or ()]
                if any(ends):
                    break

    def _judge_of(self, validation: Part) -> Callable[[Tensor], Record]:
        return lambda outputs: self._judge(outputs, validation.y)

    def _note(self, loop: Loop, record: Record, log: Callable[[Record, int], None]) -> None:
        self.n_iter_ += 1
        self.loss_ = record["train/loss"]
        for name, value in {"epoch": loop.epoch, "step": loop.step, **record}.items():
            self.history_.setdefault(name, []).append(value)
        if self.verbose:
            print(line_of(loop.epoch, record))
        log(record, loop.step)

    def _options(self, rows: int) -> dict[str, Any]:
        given = self.get_params(deep=False)
        options = resolved(given, rows)
        state = options.pop("random_state")
        if isinstance(state, int | np.integer) and not 0 <= state < 2**32:
            raise UserError(f"random_state: got {state}, must be from 0 to 4294967295")
        is_seed = isinstance(state, int | np.integer)
        options["seed"] = int(state) if is_seed else int(check_random_state(state).randint(2**31))
        if options["precision"] not in ("auto", *DTYPES):
            raise UserError(f"precision: got {options['precision']}, must be one of auto, {', '.join(DTYPES)}")
        check_options(options)
        return options

    def _dtype(self, options: dict[str, Any], samples: int) -> torch.dtype:
        precision = options["precision"]
        if precision == "auto":
            precision = "64-true" if samples <= FEW_SAMPLES else "32-true"
        return DTYPES[precision]

    def _take(self, X: Any, y: Any, sample_weight: ArrayLike | None, *, again: bool) -> Samples:
        samples = checked(self, X, y, sample_weight, again=again)
        return samples._replace(y=self._learn(samples, again=again))

    def _part(self, samples: Samples, loop: Loop) -> Part:
        dtype = loop.network.flat.dtype
        return Part(tensor_of(samples.X, dtype), self._targets(samples, loop.recipe.loss, dtype), samples.y)

    @property
    def coefs_(self) -> list[NDArray[Any]]:
        """The weights of each layer ``(D, H)``, as scikit-learn has them."""
        return [layer.weight.T.numpy() for layer in self.network_.layers]

    @property
    def intercepts_(self) -> list[NDArray[Any]]:
        """The biases of each layer ``(H,)``."""
        return [layer.bias.numpy() for layer in self.network_.layers]

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """The network's outputs ``(N, K)``."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=KINDS, reset=False)
        x = tensor_of(X, self.network_.flat.dtype)
        with torch.inference_mode():
            parts = [self.network_(rows)[0] for rows in x.split(EVALUATED_ROWS)]
        return torch.cat(parts).double().numpy()

    def __getstate__(self) -> dict[str, Any]:
        # The memory of C functions cannot be copied.
        state = dict(super().__getstate__())
        if isinstance(state.get("_loop"), Loop):
            state["_loop"] = paused(state["_loop"])
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def keep(estimator: Estimator, parameters: Mapping[str, Any]) -> None:
    """Make the parameters of a constructor, its ``locals()``, attributes, which is all that scikit-learn lets it do."""
    for name, value in parameters.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)
