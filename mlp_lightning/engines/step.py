"""One training step by hand: forward, loss, backward, clip, update, in memory that is kept between steps."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.accumulation import Accumulation, check_size
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.engines.finiteness import Finiteness, LetPass
from mlp_lightning.engines.hooks import GradientHooks
from mlp_lightning.engines.native.engine import Evaluator, NativeSteps
from mlp_lightning.engines.native.loss import NativeCrossEntropy, in_place
from mlp_lightning.engines.readings import Readings
from mlp_lightning.engines.shard import Shard, wait
from mlp_lightning.engines.torch.passes import MANY_ROWS, SOME_ROWS, Workspace
from mlp_lightning.nn import MLP
from mlp_lightning.nn.draws import Draws
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.losses import Loss, SoftmaxCrossEntropy
from mlp_lightning.nn.training_pass import TrainingPass
from mlp_lightning.optim import SGD, Muon, UpdateRule
from mlp_lightning.optim.clipping import clip_norm_, clip_value_
from mlp_lightning.optim.l1 import soft_threshold_
from mlp_lightning.optim.max_norm import max_norm_
from mlp_lightning.training.distributed.strategy import sum_over_ranks

if TYPE_CHECKING:
    from mlp_lightning.engines.triton.engine import CudaSteps


class Several(NamedTuple):
    """Some steps: the sums over them of what a call returns, how many they are, and what an evaluator found after."""

    loss_sum: float | Tensor
    normalizer: float
    n_steps: int
    # The summed loss of validation samples, and how many answers were right.
    evaluated: tuple[float, int] | None = None


class HandStep:
    """The steps of one training, on one process's share of each minibatch.

    Plain SGD adds each layer's gradient to the weights inside the product that computes it (``SGD.within_product``),
    where nothing needs the whole gradient first: no clipping, no other process or minibatch, no scaler, no norm with
    parameters of its own, no step that may be skipped.
    ``samples_seen`` counts the samples of all processes, and ``finiteness`` tells whether the last step was skipped.

    Args:
        network: on its device.
        loss: with reduction ``"sum"``.
        rule: on ``network.flat``, or on this process's share of it, with one group of options.
        reduction: ``"mean"`` or ``"sum"`` of the whole minibatch.
        clip_norm: largest Euclidean norm of the gradient; None for none.
        clip_value: largest absolute value of its entries; None for none.
        l1: λ of the penalty λ Σ|w| on all weights; 0 for none.
        max_norm: largest Euclidean norm of a row of each weight matrix; None for none.
        world_size: number of processes that share each minibatch.
        dtype_of_products: None for the parameter's.
        scaler: for float16, whose range small deltas would fall below: the scale of the deltas, taken out of the
            gradient again, or a step left out where the gradient overflowed. None for no scaling.
        dropout: makes the masks of each step; None for no dropout.
        adversary: adds the term of virtual adversarial training; None for none.
        seed: of its random directions.
        shard: that share; None for all of it.
        overlap: whether each layer's dW is summed over the processes while the layers before it are still computed.
        accumulate: minibatches whose gradients make one update, at least 1.
        skips: whether a step whose loss or gradient is not finite is left out; else it raises NotFinite.
        readings: where numbers wait that tell whether steps were finite; None for a queue of its own.
        hooks: what is called around the gradient, which is then formed before the update; None for nothing.
    """

    def __init__(
        self,
        network: MLP,
        loss: Loss,
        rule: UpdateRule,
        *,
        reduction: str,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        world_size: int = 1,
        dtype_of_products: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        dropout: Dropout | None = None,
        adversary: VirtualAdversary | None = None,
        seed: int = 0,
        shard: Shard | None = None,
        overlap: bool = False,
        accumulate: int = 1,
        skips: bool = False,
        readings: Readings | None = None,
        hooks: GradientHooks | None = None,
    ) -> None:
        self.network = network
        self.loss = in_place(loss)
        self.rule = rule
        self.reduction = reduction
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.l1 = l1
        self.max_norm = max_norm
        self.world_size = world_size
        self.scaler = scaler
        self.dropout = dropout
        self.adversary = adversary
        self.shard = shard
        self.hooks = hooks
        self.overlap = overlap and world_size > 1
        self._works: list[dist.Work | None] = []
        self._draws = Draws(seed, "vat", network.flat.device)
        self.gathered = Accumulation(accumulate, reduction) if accumulate > 1 else None
        self._restores_running = accumulate > 1 and skips and network.running is not None
        self._running: Tensor | None = None
        self.samples_seen = 0
        self._last: tuple[float | Tensor, float | Tensor] = 0.0, 1.0
        (self._group,) = rule.param_groups
        clips = clip_norm is not None or clip_value is not None
        is_plain = isinstance(rule, SGD) and self._group["momentum"] == 0
        needs_gradient = clips or skips or world_size > 1 or accumulate > 1
        needs_gradient = needs_gradient or scaler is not None or bool(network.norms) or hooks is not None
        self.adds_to_weights = is_plain and not needs_gradient
        self.workspace = Workspace(network, dtype_of_products, SOME_ROWS if self.adds_to_weights else MANY_ROWS)
        self.finiteness = Finiteness(
            self.workspace,
            skips=skips,
            world_size=world_size,
            accumulates=accumulate > 1,
            scaled=scaler is not None,
            shard=shard,
            readings=readings,
        )
        one = loss.normalizer(network.flat.new_empty(1, network.sizes[-1]), network.flat.new_zeros(1).long())
        # Where every sample counts alike the processes need not ask each other for the whole minibatch's.
        self._normalizer_of_one = None if isinstance(one, Tensor) else one
        if isinstance(rule, Muon):
            rule.dtype_of_products = dtype_of_products
        if l1:
            with torch.inference_mode(False):
                self._memory = torch.empty_like(network.flat.detach()[: network.weight_numel])
        is_bare = not (needs_gradient or l1 or max_norm or dropout or adversary)
        self._native_steps: NativeSteps | None = None
        self._cuda_steps: CudaSteps | None = None
        if is_bare:
            self._cuda_steps = _cuda_steps(network, loss, rule, reduction, dtype_of_products)
            if self._cuda_steps is None and isinstance(self.loss, NativeCrossEntropy) and NativeSteps.takes(rule):
                self._native_steps = NativeSteps(self.workspace, self.loss, rule, reduction)

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
        if self._cuda_steps is not None and self._cuda_steps.fits(batch):
            return self._on_gpu([batch], [lr], step, keep_gradient=keep_gradient)
        self._group["lr"] = lr
        self.samples_seen += batch.size
        workspace, loss, gathered, finiteness = self.workspace, self.loss, self.gathered, self.finiteness
        # Of the minibatch, since each has random numbers of its own.
        number = step if gathered is None else step * gathered.size + gathered.count
        training = self._training_pass(batch, number)
        logits = workspace.forward(batch.x, training)
        targets = batch.targets(logits.shape[1], logits.dtype)
        loss_sum, cache = loss.forward(logits, targets)
        normalizer = loss.normalizer(logits, targets)
        self._last = loss_sum, normalizer
        whole = self._whole(normalizer, batch.size)
        if gathered is None:
            dloss, dloss_of_adversary, adds = self._dloss(whole, logits), self._dloss(batch.size, logits), False
        else:
            # The sums are gathered, and the update divides.
            dloss, dloss_of_adversary = self._dloss(1.0, logits), self._dloss(batch.size / whole, logits)
            adds = gathered.count > 0
            if self._restores_running and gathered.count == 0:
                assert self.network.running is not None
                self._running = self.network.running.clone()
            gathered.add(whole)
        dlogits = loss.backward(cache, dloss)
        if self.hooks is not None:
            self.hooks.before_backward(self.loss_of_batch, is_first=not adds)
        deltas = None
        if self.adversary is not None:
            self._draws.start(number, len(batch.x), batch.first, batch.size)
            d = self._draws.normal(batch.x.shape[1])
            self.adversary.forward(batch.x, logits, d, training)
            deltas = self.adversary.backward(workspace, dlogits, dloss_of_adversary)
        if self.adds_to_weights:
            assert isinstance(self.rule, SGD)
            finiteness.check_loss(step, loss_sum, batch, training, lr)
            share, keep, keep_bias = self.rule.within_product(self._group)
            biases = None
            if deltas is None:
                biases = workspace.descend(
                    dlogits, share=share, keep=keep, keep_bias=keep_bias, keep_gradient=keep_gradient
                )
            else:
                for k, dz, a in deltas:
                    if keep_gradient:
                        workspace.write_gradient(k, dz, a)
                    workspace.add_gradient(k, dz, a, share=share, keep=keep, keep_bias=keep_bias)
            self._constrain()
            finiteness.check_update(step, loss_sum, lr, biases)
        else:
            biases = None
            if deltas is None and not self.overlap:
                biases = workspace.write_gradients(dlogits, add=adds)
            else:
                for k, dz, a in deltas or workspace.backward(dlogits):
                    workspace.write_gradient(k, dz, a, add=adds)
                    if self.overlap and updates:
                        self._works.append(dist.all_reduce(self.network.layers[k].dweight, async_op=True))
            finiteness.mark(loss_sum)
            if not updates:
                if self.hooks is not None:
                    # The sum so far; the update divides it.
                    self.network.flat.grad = self.network.flat_grad
                    self.hooks.after_backward()
                if finiteness.allows_part(step, loss_sum, batch, training, lr):
                    workspace.follow()
                return loss_sum, normalizer
            gradient = self._sum_gradient()
            if self.hooks is not None:
                self.hooks.after_backward()
            allowed = finiteness.allows(step, loss_sum, gradient, batch, training, lr, biases)
            if allowed:
                workspace.follow()
            elif self._running is not None:
                # The minibatches before this one were finite, but their step is left out.
                self.network.running.copy_(self._running)  # type: ignore[union-attr]
            # A scaler leaves the step out itself, and must hear of it.
            if allowed or self.scaler is not None:
                self._update(gradient, keep_gradient)
        return loss_sum, normalizer

    @property
    def loss_of_batch(self) -> Tensor:
        """The loss of this process's share of the last minibatch, 0-dim, mean or sum as the gradient's."""
        loss_sum, normalizer = self._last
        return torch.as_tensor(loss_sum) / (normalizer if self.reduction == "mean" else 1.0)

    def prepare(self, sizes: Iterable[int]) -> None:
        """Compile, load and record what the first steps on minibatches of so many samples would wait for."""
        if self._cuda_steps is not None:
            self._cuda_steps.prepare(sizes)

    @property
    def makes_many(self) -> bool:
        """Whether ``make_many`` may make steps."""
        in_one_go = self._native_steps is not None or self._cuda_steps is not None
        return in_one_go and not isinstance(self.finiteness, LetPass)

    @property
    def makes_many_evaluated(self) -> bool:
        """Whether ``make_many`` may also evaluate after each of them."""
        return self.makes_many and self._native_steps is not None

    def make_many(
        self, batches: Sequence[Batch], rates: Sequence[float], step: int, evaluator: Evaluator | None = None
    ) -> Iterator[Several]:
        """Make steps in one go, bitwise those that as many calls would make, as long as they are finite.

        Args:
            batches: whole minibatches of as many samples each.
            rates: the learning rate of each.
            step: the number of the first.
            evaluator: what evaluates the validation samples of each after its step; None for none.

        Yields:
            Some steps, or nothing. The step after those is to be made by a call, which raises NotFinite if that is the
            reason.

        Raises:
            NotFinite: after the last one.
        """
        if self._cuda_steps is not None:
            if all(self._cuda_steps.fits(batch) and batch.size == batches[0].size for batch in batches):
                yield Several(*self._on_gpu(batches, rates, step, keep_gradient=False), len(batches))
            return
        assert self._native_steps is not None
        losses, evaluated, biases = self._native_steps.run(batches, rates, evaluator)
        size = batches[0].size
        self.samples_seen += size * len(losses)
        for k, loss in enumerate(losses):
            yield Several(loss, float(size), 1, evaluated[k] if k < len(evaluated) else None)
        if biases is not None:
            self.finiteness.check_update(step + len(losses) - 1, losses[-1], rates[len(losses) - 1], biases)

    def _on_gpu(
        self, batches: Sequence[Batch], rates: Sequence[float], step: int, *, keep_gradient: bool
    ) -> tuple[Tensor, float]:
        assert self._cuda_steps is not None
        losses, totals = self._cuda_steps.run(batches, rates, keeps=keep_gradient)
        size = sum(batch.size for batch in batches)
        self._last = losses[-1], float(batches[-1].size)
        self.samples_seen += size
        self.finiteness.note(step, totals, rates[-1])
        # Of numbers of 32 bits a sum in 64 bits is exact, unless they differ by a factor of a million and more: it does
        # not depend on which steps were made together.
        return losses.sum(dtype=torch.float64), float(size)

    def gathered_state(self) -> dict[str, Any]:
        """For a checkpoint between two updates, what was gathered over all processes; empty at an update."""
        if self.gathered is None or not self.gathered.count:
            return {}
        return self.gathered.state(sum_over_ranks(self.network.flat_grad.clone()))

    def go_on(self, state: dict[str, Any], *, takes_gradient: bool) -> None:
        """Take up ``gathered_state``, whose gradient, the sum of all processes', one of them takes.

        Raises:
            UserError: it was gathered towards an update of another number of minibatches.
        """
        if not state:
            return
        check_size(1 if self.gathered is None else self.gathered.size, state)
        assert self.gathered is not None
        flat_grad = self.network.flat_grad
        self.gathered.take(state, flat_grad.device)
        if takes_gradient:
            flat_grad.copy_(state["gradient"])
        else:
            flat_grad.zero_()

    def _training_pass(self, batch: Batch, step: int) -> TrainingPass:
        masks = self.dropout.masks(step, len(batch.x), batch.first, batch.size) if self.dropout is not None else ()
        return TrainingPass(batch.size, masks, sum_over_ranks)

    def _whole(self, normalizer: float | Tensor, size: int) -> float | Tensor:
        """What the mean divides by, of the whole minibatch, whose share on this process has ``normalizer``."""
        if self._normalizer_of_one is not None:
            return size * self._normalizer_of_one
        if self.reduction == "mean" and self.world_size > 1:
            return sum_over_ranks(torch.as_tensor(normalizer).clone())
        return normalizer

    def _dloss(self, divisor: float | Tensor, logits: Tensor) -> float | Tensor:
        """1 for the sum; for the mean 1 over its divisor."""
        dloss = 1.0 / divisor if self.reduction == "mean" else 1.0
        return dloss if self.scaler is None else self.scaler.scale(logits.new_ones(())) * dloss

    def _sum_gradient(self) -> Tensor:
        """The gradient of the whole minibatch, or this process's share of it."""
        flat_grad, shard = self.network.flat_grad, self.shard
        if self.overlap:
            # Everything but the weights, which are on their way.
            self._works.append(dist.all_reduce(flat_grad[self.network.weight_numel :], async_op=True))
            wait(self._works)
            self._works.clear()
            gradient = flat_grad
        else:
            gradient = sum_over_ranks(flat_grad) if shard is None else shard.sum_(flat_grad)
        if self.gathered is not None:
            self.gathered.finish_(gradient)
        # Lightning clears .grad around validation, so it is set before each step.
        self._group["params"][0].grad = gradient
        if self.scaler is not None:
            self.scaler.unscale_(self.rule)
        return gradient

    def _update(self, gradient: Tensor, keep_gradient: bool) -> None:
        shard = self.shard
        if self.hooks is not None:
            self.hooks.before_update()
            gradient = self._group["params"][0].grad
            # A hook took it away: torch's optimizers then leave the parameter as it is.
            if gradient is None:
                return
        if self.clip_norm is not None:
            clip_norm_(gradient, self.clip_norm, None if shard is None else shard.norm(gradient))
        if self.clip_value is not None:
            clip_value_(gradient, self.clip_value)
        if self.scaler is None:
            if self.hooks is None:
                self.rule.update_all()
            else:
                self.hooks.update()
            if shard is not None:
                shard.gather_(self.network.flat.detach())
                if keep_gradient:
                    shard.gather_(self.network.flat_grad)
            self._constrain()
        else:
            # The scaler leaves a step out where the gradient overflowed; what follows a step is left out with it.
            hook = self.rule.register_step_post_hook(lambda *_: self._constrain())
            self.scaler.step(self.rule)
            hook.remove()
            self.scaler.update()

    def _constrain(self) -> None:
        """What holds of the weights after every step: first the penalty's zeros, then the rows' lengths."""
        if self.l1:
            weights = self.network.flat.detach()[: self.network.weight_numel]
            soft_threshold_(weights, self._group["lr"] * self.l1, self._memory)
        if self.max_norm is not None:
            for layer in self.network.layers:
                max_norm_(layer.weight, self.max_norm)


def _cuda_steps(
    network: MLP, loss: Loss, rule: UpdateRule, reduction: str, dtype: torch.dtype | None
) -> "CudaSteps | None":
    """The steps in kernels of their own, where they can be made so."""
    if not network.flat.is_cuda:
        return None
    try:
        # Triton is not needed but here, and takes its time to be imported.
        from mlp_lightning.engines.triton.engine import CudaSteps
    except ImportError:
        return None
    if not CudaSteps.takes(network, loss, rule, dtype):
        return None
    assert isinstance(loss, SoftmaxCrossEntropy)
    return CudaSteps(network, loss, rule, reduction, dtype)
