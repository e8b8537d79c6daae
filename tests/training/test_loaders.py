"""DataLoaders of the user's own under Lightning's own Trainer, against torch.nn, autograd and torch.optim."""

import copy
import pickle
import re

import lightning.pytorch as pl
import pytest
import torch
from fixtures.trainings import WeightsAtStart
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import mlp_lightning
from mlp_lightning.errors import UserError
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*num_workers", "ignore:You defined a `validation_step`", "ignore:.*treespec"
)

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


class Pictures(Dataset):
    """Samples that nobody holds in a tensor."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


def samples(n=50):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 3, 4, generator=generator)
    return x, (x.flatten(1)[:, :3].argmax(1)).long()


def trainer(tmp_path, kind=pl.Trainer, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return kind(accelerator="cpu", default_root_dir=tmp_path, **{**quiet, "max_epochs": 2, **options})


@pytest.fixture
def fitted(tmp_path):
    x, y = samples()
    module, own = MLPModule(hidden=[7]), trainer(tmp_path)
    own.fit(module, DataLoader(TensorDataset(x, y), batch_size=16))
    return module, own


@pytest.mark.parametrize("kind", [pl.Trainer, Trainer])
@pytest.mark.parametrize("dataset", [TensorDataset, Pictures])
def test_training_is_torchs(tmp_path, torch_network, named_weights, kind, dataset):
    x, y = samples()
    loader = DataLoader(dataset(x, y), batch_size=16)
    module = MLPModule(hidden=[7, 5], lr=0.01, optimizer="adam", seed=4)
    start = WeightsAtStart()
    own = trainer(tmp_path, kind, precision="64-true", callbacks=[start, Health()], log_every_n_steps=2)
    own.fit(module, loader, DataLoader(dataset(x, y), batch_size=20))
    network = torch_network(start.weights)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(2):
        for part_x, part_y in zip(x.flatten(1).double().split(16), y.split(16), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(network(part_x), part_y).backward()
            optimizer.step()
    torch.testing.assert_close(module.network.state_dict(), named_weights(network), **CLOSE)
    outputs = network(x.flatten(1).double()).detach()
    assert module.results["val/loss"] == pytest.approx(float(F.cross_entropy(outputs, y)), rel=1e-9)


def test_evaluations_return_their_numbers_and_predict_probabilities(fitted, torch_network):
    module, own = fitted
    x, y = samples(33)
    loader = DataLoader(TensorDataset(x, y), batch_size=10)
    outputs = torch_network(module.network.state_dict())(x.flatten(1)).detach()
    expected = (float(F.cross_entropy(outputs, y)), float((outputs.argmax(1) == y).double().mean()))
    for name, evaluate in (("val", own.validate), ("test", own.test)):
        (numbers,) = evaluate(module, loader, verbose=False)
        assert (numbers[f"{name}/loss"], numbers[f"{name}/accuracy"]) == pytest.approx(expected, rel=1e-5)
    for samples_alone in (loader, DataLoader(x, batch_size=10), DataLoader(TensorDataset(x), batch_size=10)):
        found = torch.cat(own.predict(module, samples_alone))
        torch.testing.assert_close(found, outputs.softmax(1), rtol=1e-5, atol=1e-6)


def test_a_fitted_module_is_copied_pickled_and_saved(fitted, tmp_path):
    module, own = fitted
    x, _ = samples(5)
    expected = module(x.flatten(1))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x.flatten(1)), expected)
    own.save_checkpoint(tmp_path / "file.ckpt", weights_only=False)
    model = mlp_lightning.load(tmp_path / "file.ckpt")
    torch.testing.assert_close(model.probabilities(x.flatten(1)), expected.softmax(1))
    loaded = MLPModule.load_from_checkpoint(tmp_path / "file.ckpt")
    assert torch.equal(loaded(x.flatten(1)), expected)


def test_balanced_weights_count_the_loaders_labels(tmp_path):
    x, y = samples()
    module = MLPModule(hidden=[7], class_weights="balanced")
    trainer(tmp_path, max_epochs=1).fit(module, DataLoader(Pictures(x, y), batch_size=16))
    assert module.class_weights == pytest.approx((50 / (3 * y.bincount().double())).tolist())


def test_the_look_at_the_loader_leaves_its_order(tmp_path):
    x, y = samples()
    seen = []

    class See(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch[0].flatten()[0].item())

    torch.manual_seed(3)
    loader = DataLoader(Pictures(x, y), batch_size=16, shuffle=True)
    trainer(tmp_path, max_epochs=1, callbacks=[See()]).fit(MLPModule(hidden=[7]), loader)
    torch.manual_seed(3)
    assert seen == [part.flatten(1)[0, 0].item() for part, _ in loader]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([(torch.rand(4, 3), torch.rand(4))], "got targets (4,) of float32, must be (x, y) with samples (B, …)"),
        ([(torch.rand(4, 3), torch.zeros(4, 2).long())], "got targets (4, 2) of int64"),
        ([torch.rand(4)], "got a minibatch of Tensor"),
        ([{"x": torch.rand(4, 3)}], "got a minibatch of dict"),
        ([(1, 2)], "got a minibatch of tuple (int, int)"),
    ],
    ids=["floats", "table", "rows", "dict", "numbers"],
)
def test_other_minibatches_are_refused_in_a_line(tmp_path, loader, message):
    class Loader:
        def __iter__(self):
            return iter(loader)

        def __len__(self):
            return len(loader)

    with pytest.raises(UserError, match=re.escape(message)):
        trainer(tmp_path).fit(MLPModule(hidden=[7]), Loader())


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadam", "rmsprop"])
def test_our_optimizers_train_any_module(tmp_path, name):
    class Net(pl.LightningModule):
        def __init__(self, rule):
            super().__init__()
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
            self.rule = rule

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.layers(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = self.rule(self.parameters(), lr=0.01, weight_decay=0.01)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)]

    theirs = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "rmsprop": "RMSprop"}[name]
    weights = []
    for rule in (OPTIMIZERS[name], getattr(torch.optim, theirs)):
        net = Net(rule)
        trainer(tmp_path, max_epochs=3, precision="64-true").fit(
            net, DataLoader(TensorDataset(samples()[0].double(), samples()[1]), batch_size=16)
        )
        weights.append(net.state_dict())
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-8)
