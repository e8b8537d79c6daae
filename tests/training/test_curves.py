import math

import pytest
import torch

from mlp_lightning.errors import UserError
from mlp_lightning.training.curves import Curves, check_finite, means
from mlp_lightning.training.module import MLPModule


def as_it_is(tensor):
    return tensor


def read(curves, reduce=as_it_is):
    names, sums = curves.take(reduce)
    return means(names, sums.tolist())


def test_means_divide_summed_amounts_by_summed_weights():
    curves = Curves()
    losses = [torch.tensor([0.5, 1.5, 4.0]), torch.tensor([2.0])]
    for samples in losses:
        curves.add("loss", samples.sum(), len(samples))
        curves.add("accuracy", torch.tensor(1), torch.tensor(2))
    assert read(curves) == {"loss": torch.cat(losses).mean().item(), "accuracy": 0.5}


def test_means_start_anew_after_each_reading():
    curves = Curves()
    assert not curves.pending
    assert read(curves) == {}
    curves.add("loss", torch.tensor(3.0), 1)
    assert curves.pending
    read(curves)
    assert not curves.pending
    curves.add("loss", torch.tensor(5.0), 1)
    assert read(curves) == {"loss": 5.0}


def test_means_are_over_all_processes():
    here, there = Curves(), Curves()
    here.add("loss", torch.tensor(6.0), 3)
    there.add("loss", torch.tensor(2.0), 1)
    sent: list[torch.Tensor] = []
    there.take(lambda tensor: sent.append(tensor.clone()) or tensor)
    assert read(here, lambda tensor: tensor + sent[0]) == {"loss": 2.0}


def test_adding_leaves_the_callers_tensors_alone():
    curves = Curves()
    amount = torch.tensor(1.0)
    for _ in range(3):
        curves.add("loss", amount, 1)
    assert amount.item() == 1.0


def test_a_window_of_many_steps_counts_samples_exactly():
    curves = Curves()
    for _ in range(200):
        curves.add("accuracy", torch.tensor(19), 19)
    assert read(curves) == {"accuracy": 1.0}


def test_a_name_without_any_weight_has_no_mean():
    curves = Curves()
    curves.add("train/loss", torch.tensor(1.0), 4)
    curves.add("val/loss", torch.tensor(0.0), 0)
    assert read(curves) == {"train/loss": 0.25}


def test_history_keeps_steps_and_values_by_name():
    curves = Curves()
    curves.append(2, {"loss": 1.0, "lr": 0.1})
    curves.append(4, {"loss": 0.5})
    assert curves.history == {"loss": ([2, 4], [1.0, 0.5]), "lr": ([2], [0.1])}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_ends_the_training(value):
    with pytest.raises(UserError, match=r"^model\.lr: loss became -?(nan|inf) by step 7, the training has diverged"):
        Curves().append(7, {"loss": value})


def test_a_test_that_is_not_finite_does_not_blame_the_training():
    with pytest.raises(UserError, match=r"^test/loss is nan: the weights, or .* too large"):
        check_finite(0, {"test/loss": math.nan})


def test_a_window_goes_on_where_it_was_left():
    straight, left, resumed = Curves(), Curves(), Curves()
    amounts = torch.rand(6, generator=torch.Generator().manual_seed(0))
    for i, amount in enumerate(amounts):
        straight.add("loss", amount, 3.0)
        (left if i < 2 else resumed).add("loss", amount, 3.0)
        if i == 1:
            resumed.resume(left.window(as_it_is))
    assert read(resumed) == read(straight)


def test_taking_a_window_for_a_checkpoint_changes_nothing():
    curves = Curves()
    curves.add("loss", torch.tensor(6.0), 2)
    window = curves.window(lambda tensor: tensor.mul_(2))
    assert [part.item() for part in window["loss"]] == [12.0, 4.0]
    assert read(curves) == {"loss": 3.0}


def test_every_process_takes_up_the_same_names_of_a_window_and_one_its_sums(make_parts, monkeypatch):
    parts = make_parts()
    parts.module.trainer = parts.trainer
    parts.data.setup("fit")
    parts.trainer.datamodule = parts.data
    parts.module.configure_model()
    parts.trainer.state.fn = "fit"
    window = {"train/loss": [torch.tensor(3.0), torch.tensor(4)]}
    checkpoint = {"sizes": list(parts.module.network.sizes), "history": {}, "window": window}
    checkpoint |= {"state_dict": parts.module.state_dict(), "lr_schedulers": []}
    checkpoint["loops"] = {f"{name}_loop": {} for name in ("fit", "validate", "test", "predict")}
    checkpoint["optimizer_states"] = [parts.module.configure_optimizers().state_dict()]
    for rank, expected in ((0, {"train/loss": 0.75}), (1, {})):
        monkeypatch.setattr(MLPModule, "global_rank", rank)
        parts.module.on_load_checkpoint(checkpoint)
        # Only where all of them have something pending do all of them sum.
        assert parts.module.curves.pending
        assert read(parts.module.curves) == expected
