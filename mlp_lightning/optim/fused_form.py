"""The form of a rule's step that a kernel can make in one pass over the parameter."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

if TYPE_CHECKING:
    from mlp_lightning.optim.update_rule import UpdateRule

# (θ, g, m, v, β1, β2, rate, grad_rate, ε): θ ← θ − (rate · m + grad_rate · g) / (√v + ε), after
# m ← β1 m + (1 − β1) g and v ← β2 v + (1 − β2) g². False where it does not take these tensors, and nothing was done.
OnePass = Callable[[Tensor, Tensor, Tensor, Tensor, float, float, float, float, float], bool]


class FusedForm:
    """A rule's step on one tensor, as coefficients for a kernel that knows nothing of the rule but its ``kind``.

    W are the weights and b everything else; the coefficients come in the order in which they are named.

    - ``sgd``: alpha, beta, bias_beta. W ← beta W + alpha g and b ← bias_beta b + alpha g.
    - ``momentum``: those of ``sgd``, then buffer_beta, buffer_alpha, alpha_of_buffer.
      u ← buffer_beta u + buffer_alpha g, then ``sgd``, then θ ← θ + alpha_of_buffer u.
    - ``adam``: rate, beta, bias_beta, 1 − beta1, beta2, 1 − beta2, eps. m ← m + (1 − beta1) (g − m) and
      v ← beta2 v + (1 − beta2) g², then W ← beta W − rate m / (√v + eps), and b likewise with bias_beta.

    Args:
        rule: with one group of options and one parameter.
    """

    kind: ClassVar[Literal["sgd", "momentum", "adam"]]

    def __init__(self, rule: "UpdateRule") -> None:
        self.rule = rule
        (self.group,) = rule.param_groups
        (self.parameter,) = self.group["params"]

    @property
    def decays(self) -> bool:
        """Whether a step multiplies weights by another number than 1."""
        return bool(self.group["weight_decay"])

    def moments(self) -> list[Tensor]:
        """What the rule keeps of the parameter, made where it is not there yet: u, or m and v."""
        return []

    @abstractmethod
    def coefficients(self, lr: float, ahead: int = 0) -> tuple[float, ...]:
        """Of the step of that learning rate which comes after ``ahead`` others that are not counted yet."""

    def count(self, steps: int) -> None:
        """Count steps as made."""
