"""Copies of a module, deep or through pickle, before a training, within it and after it."""

import copy
import pickle

import lightning.pytorch as pl
import pytest
import torch

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda module: pickle.loads(pickle.dumps(module))}
MODELS = {
    "adam, in C": {},
    "sgd, cosine, batch norm": {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine", "norm": "batch"},
    "averaged, dropout": {"averaging": "ema", "dropout": 0.2},
    "adversary, muon": {"optimizer": "muon", "vat": 0.5},
    "class weights, mse": {"loss": "mse"},
}


class CopyWithin(pl.Callback):
    def __init__(self, copied):
        self.copied, self.found = copied, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.found.append(self.copied(pl_module))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_copies_hold_the_weights_and_train_on(make_parts, model, copied):
    within = CopyWithin(copied)
    parts = make_parts(model, callbacks=[within])
    twin = copied(parts.module)
    parts.trainer.fit(parts.module, parts.data)
    after = copied(parts.module)
    assert twin.hparams == after.hparams == parts.module.hparams
    assert after.curves.history == parts.module.curves.history
    assert not torch.equal(within.found[0].network.flat, after.network.flat)
    for one in (within.found[-1], after):
        torch.testing.assert_close(dict(one.state_dict()), dict(parts.module.state_dict()), rtol=0, atol=0)
        assert one.network.flat.data_ptr() != parts.module.network.flat.data_ptr()
    # A copy that has not trained trains as the original did.
    again = make_parts(model)
    again.trainer.fit(twin, again.data)
    torch.testing.assert_close(dict(twin.state_dict()), dict(parts.module.state_dict()), rtol=0, atol=0)
    # One that has trains on.
    before = after.network.flat.clone()
    further = make_parts(model)
    further.trainer.fit(after, further.data)
    assert not torch.equal(after.network.flat, before)
    further.trainer.test(after, further.data, verbose=False)
    torch.testing.assert_close(dict(twin.state_dict()), dict(parts.module.state_dict()), rtol=0, atol=0)
