"""What every engine is: it makes the steps of a recipe; here one at a time, with the passes of the engine."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.accumulation import Accumulation, check_size
from mlp_lightning.engines.finiteness import Finiteness
from mlp_lightning.engines.passes import MANY_ROWS, SOME_ROWS, Evaluator, LayerDelta, LinearStep, Passes, StepLoss
from mlp_lightning.engines.ranks import AllReduce, Overlapped, ReduceScatter, sum_over_ranks
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.nn.draws import Draws
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.training_pass import TrainingPass
from mlp_lightning.optim.fused_form import FusedForm
from mlp_lightning.optim.update_rule import UpdateRule


class Steps(NamedTuple):
    """Some steps: how many, the sums over them of their losses and of what the means divide by, and an evaluation."""

    n_steps: int
    loss_sum: float | Tensor
    normalizer: float
    # The summed loss of validation samples after the step, and how many answers were right.
    evaluated: tuple[float, int] | None = None


class Engine:
    """Makes the steps of one training, on one process's share of each minibatch.

    A call is one step, or one minibatch's part in it. ``steps`` makes several where the engine can, with the same
    bits. ``samples_seen`` counts the samples of all processes, and ``finiteness`` tells whether the last step
    was skipped.

    Plain SGD adds each layer's gradient to the weights inside the product that computes it, in an engine that
    ``updates_in_products``, where nothing needs the whole gradient first.

    Args:
        recipe: one that the engine does not refuse.
    """

    name: ClassVar[str]
    # Whether the engine can make an update inside the products of the backward pass.
    updates_in_products: ClassVar[bool]

    def __init__(self, recipe: StepRecipe) -> None:
        self.recipe = recipe
        network, rule, workers = recipe.network, recipe.rule, recipe.workers
        self.network, self.rule, self.hooks = network, rule, recipe.hooks
        (self._group,) = rule.param_groups
        rule.dtype_of_products, rule.one_pass = recipe.products, None
        self._fused = self.form_within_products(rule) if recipe.needs_gradient is None else None
        self.passes = self.make_passes(network, recipe.products, SOME_ROWS if self._fused else MANY_ROWS)
        self.loss = self.make_loss()
        if recipe.adversary is not None:
            recipe.adversary.passes = self.make_passes(network, recipe.products)
        self._reduce = _reduction(recipe)
        self.gathered = Accumulation(recipe.accumulate, recipe.reduction) if recipe.accumulate > 1 else None
        self.finiteness = Finiteness(
            self.passes,
            nonfinite=recipe.nonfinite,
            world_size=workers.size,
            accumulates=recipe.accumulate > 1,
            scaled=recipe.scaler is not None,
            shard=workers.shard,
            readings=recipe.readings,
        )
        self.samples_seen = 0
        self._last: tuple[float | Tensor, float | Tensor] = 0.0, 1.0
        self._draws = Draws(recipe.seed, "vat", network.flat.device)
        # Batch norm's statistics, from before the first minibatch of an update that may be skipped.
        self._running_before: Tensor | None = None
        one = recipe.loss.normalizer(network.flat.new_empty(1, network.sizes[-1]), network.flat.new_zeros(1).long())
        # Where every sample counts alike the processes need not ask each other for the whole minibatch's.
        self._normalizer_of_one = None if isinstance(one, Tensor) else one

    @classmethod
    @abstractmethod
    def refuses(cls, recipe: StepRecipe) -> str | None:
        """Why the engine cannot make these steps, in words; None if it can."""

    @abstractmethod
    def make_passes(self, network: MLP, products: torch.dtype | None, min_rows_sparse: int = MANY_ROWS) -> Passes:
        """The passes of a network, with products in a dtype, None for the parameter's.

        Args:
            network: any of the recipe's sizes.
            products: the dtype.
            min_rows_sparse: from how many samples on the passes skip zeros, where they can.
        """

    def make_loss(self) -> StepLoss:
        """What computes the recipe's loss."""
        return self.recipe.loss

    def form_within_products(self, rule: UpdateRule) -> FusedForm | None:
        """The rule's form where the engine makes its update inside the products, else None."""
        form = rule.fused() if self.updates_in_products else None
        return form if form is not None and form.kind == "sgd" else None

    @property
    def is_fused(self) -> bool:
        """Whether updates are made inside the products of the backward pass."""
        return self._fused is not None

    @property
    def one_by_one(self) -> str | None:
        """Why ``steps`` makes none, in words; None where it makes several in one call."""
        return "every operation is called from Python"

    @property
    def evaluates_steps(self) -> bool:
        """Whether ``steps`` may also evaluate after each of them."""
        return False

    def prepare(self, sizes: Iterable[int]) -> None:
        """Compile, load and record what the first steps on minibatches of so many samples would wait for."""

    def steps(
        self, batches: Sequence[Batch], rates: Sequence[float], first: int, evaluator: Evaluator | None = None
    ) -> Iterator[Steps]:
        """Make steps in one go, as long as they are finite.

        Args:
            batches: whole minibatches of as many samples each.
            rates: the learning rate of each.
            first: the number of the first step.
            evaluator: evaluates the validation samples of each minibatch after its step; None for none.

        Yields:
            Some steps, or nothing. The step after those is to be made by a call, which raises NotFinite if that is the
            reason.

        Raises:
            NotFinite: after the last one.
        """
        return iter(())

    def evaluator(self, network: MLP, min_rows_sparse: int = MANY_ROWS) -> Evaluator:
        """Evaluates samples with a network's weights as they are, with this engine's passes and loss."""
        return Evaluator(self.make_passes(network, None, min_rows_sparse), self.make_loss())

    def __call__(
        self, batch: Batch, lr: float, *, step: int = 0, updates: bool = True, keep_gradient: bool = True
    ) -> tuple[float | Tensor, float | Tensor]:
        """Make one step, or a part of it where several minibatches make an update.

        Args:
            batch: this process's share; it may be empty where there are others.
            lr: the learning rate of this step.
            step: its number, counted from 0, which random numbers follow from.
            updates: whether the update comes after this minibatch; its gradient alone is summed otherwise, which takes
                ``accumulate`` above 1.
            keep_gradient: whether ``network.flat_grad`` must hold the gradient afterwards, though the update does
                without; it never changes the update.

        Returns:
            The share's summed loss before the step, a number or 0-dim, and what its mean divides by. An adversary keeps
            its own.
        """
        self._group["lr"] = lr
        self.samples_seen += batch.size
        gathered = self.gathered
        # Of the minibatch, since each has random numbers of its own.
        number = step if gathered is None else step * gathered.size + gathered.count
        training = self._training_pass(batch, number)
        logits = self.passes.forward(batch.x, training)
        targets = batch.targets(logits.shape[1], logits.dtype)
        loss_sum, cache = self.loss.forward(logits, targets)
        normalizer = self.loss.normalizer(logits, targets)
        self._last = loss_sum, normalizer
        whole = self._whole(normalizer, batch.size)
        if gathered is None:
            dloss, dloss_of_adversary, adds = self._dloss(whole, logits), self._dloss(batch.size, logits), False
        else:
            # The sums are gathered, and the update divides.
            dloss, dloss_of_adversary = self._dloss(1.0, logits), self._dloss(batch.size / whole, logits)
            adds = gathered.count > 0
            if self.network.running is not None and self.finiteness.skips and not adds:
                self._running_before = self.network.running.clone()
            gathered.add(whole)
        dlogits = self.loss.backward(cache, dloss)
        if self.hooks is not None:
            self.hooks.before_backward(self.loss_of_batch, is_first=not adds)
        deltas = None
        if self.recipe.adversary is not None:
            self._draws.start(number, len(batch.x), batch.first, batch.size)
            d = self._draws.normal(batch.x.shape[1])
            self.recipe.adversary.forward(batch.x, logits, d, training)
            deltas = self.recipe.adversary.backward(self.passes, dlogits, dloss_of_adversary)
        if self._fused is not None:
            self.finiteness.check_loss(step, loss_sum, batch, training, lr)
            biases = self._update_in_products(LinearStep(*self._fused.coefficients(lr)), dlogits, deltas, keep_gradient)
            self._constrain()
            self.finiteness.check_update(step, loss_sum, lr, biases)
            return loss_sum, normalizer
        biases = self._write_gradients(dlogits, deltas, adds, updates)
        self.finiteness.mark(loss_sum)
        if updates:
            self._finish(step, loss_sum, biases, batch, training, keep_gradient)
        else:
            if self.hooks is not None:
                # The sum so far; the update divides it.
                self.network.flat.grad = self.network.flat_grad
                self.hooks.after_backward()
            if self.finiteness.allows_part(step, loss_sum, batch, training, lr):
                self.passes.follow()
        return loss_sum, normalizer

    @property
    def loss_of_batch(self) -> Tensor:
        """The loss of this process's share of the last minibatch, 0-dim, mean or sum as the gradient's."""
        loss_sum, normalizer = self._last
        return torch.as_tensor(loss_sum) / (normalizer if self.recipe.reduction == "mean" else 1.0)

    def gathered_state(self) -> dict[str, Any]:
        """For a checkpoint between two updates, what was gathered over all processes; empty at an update."""
        if self.gathered is None or not self.gathered.count:
            return {}
        return self.gathered.state(sum_over_ranks(self.network.flat_grad.clone()))

    def resume(self, state: dict[str, Any], *, takes_gradient: bool) -> None:
        """Take up ``gathered_state``, whose gradient, the sum of all processes', one of them takes.

        Raises:
            UserError: it was gathered towards an update of another number of minibatches.
        """
        if not state:
            return
        check_size(self.recipe.accumulate, state)
        assert self.gathered is not None
        flat_grad = self.network.flat_grad
        self.gathered.take(state, flat_grad.device)
        if takes_gradient:
            flat_grad.copy_(state["gradient"])
        else:
            flat_grad.zero_()

    def _training_pass(self, batch: Batch, number: int) -> TrainingPass:
        dropout = self.recipe.dropout
        masks = dropout.masks(number, len(batch.x), batch.first, batch.size) if dropout is not None else ()
        return TrainingPass(batch.size, masks, sum_over_ranks)

    def _whole(self, normalizer: float | Tensor, size: int) -> float | Tensor:
        """What the mean divides by, of the whole minibatch, whose share on this process has ``normalizer``."""
        if self._normalizer_of_one is not None:
            return size * self._normalizer_of_one
        if self.recipe.reduction == "mean" and self.recipe.workers.size > 1:
            return sum_over_ranks(torch.as_tensor(normalizer).clone())
        return normalizer

    def _dloss(self, divisor: float | Tensor, logits: Tensor) -> float | Tensor:
        """1 for the sum; for the mean 1 over its divisor."""
        dloss = 1.0 / divisor if self.recipe.reduction == "mean" else 1.0
        scaler = self.recipe.scaler
        return dloss if scaler is None else scaler.scale(logits.new_ones(())) * dloss

    def _update_in_products(
        self, how: LinearStep, dlogits: Tensor, deltas: Iterator[LayerDelta] | None, keep_gradient: bool
    ) -> float | None:
        if deltas is None:
            return self.passes.update_in_products(dlogits, how, keep_gradient=keep_gradient)
        for delta in deltas:
            if keep_gradient:
                self.passes.write_gradient(delta)
            self.passes.update_in_product(delta, how)
        return None

    def _write_gradients(
        self, dlogits: Tensor, deltas: Iterator[LayerDelta] | None, adds: bool, updates: bool
    ) -> float | None:
        overlaps = self.recipe.workers.overlap
        if deltas is None and not overlaps:
            return self.passes.write_gradients(dlogits, add=adds)
        for delta in deltas or self.passes.backward(dlogits):
            self.passes.write_gradient(delta, add=adds)
            if updates:
                self._reduce.start_layer(delta.k)
        return None

    def _finish(
        self,
        step: int,
        loss_sum: float | Tensor,
        biases: float | None,
        batch: Batch,
        training: TrainingPass,
        keep_gradient: bool,
    ) -> None:
        """Make the update, once the gradient of its last minibatch is written, if the step is finite."""
        gradient = self._whole_gradient()
        if self.hooks is not None:
            self.hooks.after_backward()
        allowed = self.finiteness.allows(step, loss_sum, gradient, batch, training, self._group["lr"], biases)
        if allowed:
            self.passes.follow()
        elif self.network.running is not None and self._running_before is not None:
            # The minibatches before this one were finite, but their step is skipped.
            self.network.running.copy_(self._running_before)
        # A scaler skips the step itself, and must hear of it.
        if allowed or self.recipe.scaler is not None:
            self._update(gradient, keep_gradient)

    def _whole_gradient(self) -> Tensor:
        """The gradient of the whole minibatch, or this process's shard of it."""
        gradient = self._reduce.finish()
        if self.gathered is not None:
            self.gathered.finish_(gradient)
        # Lightning clears .grad around validation, so it is set before each step.
        self._group["params"][0].grad = gradient
        if self.recipe.scaler is not None:
            self.recipe.scaler.unscale_(self.rule)
        return gradient

    def _update(self, gradient: Tensor, keep_gradient: bool) -> None:
        shard = self.recipe.workers.shard
        if self.hooks is not None:
            self.hooks.before_update()
            gradient = self._group["params"][0].grad
            # A hook took it away: torch's optimizers then leave the parameter as it is.
            if gradient is None:
                return
        for transform in self.recipe.transforms:
            transform(gradient, shard)
        if self.recipe.scaler is not None:
            # The scaler skips a step whose gradient overflowed; the constraints are skipped with it.
            hook = self.rule.register_step_post_hook(lambda *_: self._constrain())
            self.recipe.scaler.step(self.rule)
            hook.remove()
            self.recipe.scaler.update()
            return
        if self.hooks is None:
            self.rule.update_all()
        else:
            self.hooks.update()
        if shard is not None:
            shard.gather_(self.network.flat.detach())
            if keep_gradient:
                shard.gather_(self.network.flat_grad)
        self._constrain()

    def _constrain(self) -> None:
        for constraint in self.recipe.constraints:
            constraint(self.network, self._group["lr"])


def _reduction(recipe: StepRecipe) -> AllReduce:
    """How the processes sum the gradient."""
    if recipe.workers.overlap:
        return Overlapped(recipe.network)
    shard = recipe.workers.shard
    return AllReduce(recipe.network) if shard is None else ReduceScatter(recipe.network, shard)
