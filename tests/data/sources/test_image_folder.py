"""Folders of pictures: which files are read, to what size and colours, and a training from files to metrics."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.data.module import DataModule
from mlp_lightning.data.preprocessing import ImagePreprocessing
from mlp_lightning.errors import UserError

CLASSES = ("dark", "light")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(k, rng, shape=(5, 4)):
    """Dark or light, with noise."""
    return (rng.integers(0, 60, shape) + 190 * k).astype("u1")


@pytest.fixture
def fill(tmp_path):
    """Write ``n`` pictures a class into a folder."""

    def write(folder="pictures", n=12, shape=(5, 4), seed=0, suffix="png"):
        rng = np.random.default_rng(seed)
        for k, name in enumerate(CLASSES):
            for i in range(n):
                save(tmp_path / folder / name / f"{i:02}.{suffix}", picture(k, rng, shape))
        return tmp_path / folder

    return write


def module(root, **options):
    return DataModule(**{"dataset": "image_folder", "root": str(root), **options})


def test_pixels_are_the_files(fill):
    root = fill()
    data = module(root, test_path=str(root)).data
    files = [root / name / f"{i:02}.png" for name in CLASSES for i in range(12)]
    expected = np.stack([np.asarray(Image.open(file)) for file in files]).reshape(24, -1) / np.float32(255)
    assert np.array_equal(data.train_x.numpy(), expected)
    assert data.train_y.tolist() == [0] * 12 + [1] * 12
    assert torch.equal(data.test_x, data.train_x)
    assert (data.class_names, data.image_shape, data.preprocessing) == (CLASSES, (5, 4), ImagePreprocessing(5, 4))


def test_a_share_of_each_class_is_the_test_set(fill):
    data = module(fill(n=20), test_size=10).data
    assert (data.train_y.bincount().tolist(), data.test_y.bincount().tolist()) == ([15, 15], [5, 5])


def test_train_and_test_folders(fill):
    fill("pictures/train", n=8)
    data = module(fill("pictures/test", n=3).parent).data
    assert (len(data.train_y), len(data.test_y)) == (16, 6)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "PNG"])
def test_kinds_of_files(fill, suffix):
    data = module(fill(suffix=suffix)).data
    means = [float(data.train_x[data.train_y == k].mean()) for k in (0, 1)]
    assert means[0] < 0.2 < 0.8 < means[1]


def test_colours_as_they_are_or_as_asked_for(fill):
    root = fill(n=6)
    colours = np.zeros((5, 4, 3), "u1")
    colours[..., 0] = 255
    save(root / "dark" / "red.png", colours)
    data = module(root, test_path=str(root)).data
    assert data.image_shape == (5, 4, 3)
    assert data.train_x[6].view(5, 4, 3)[2, 3].tolist() == [1, 0, 0]
    grey = data.train_x[0].view(5, 4, 3)
    assert torch.equal(grey[..., 0], grey[..., 2])
    assert module(root, channels="grey").data.image_shape == (5, 4)
    assert module(fill("other"), channels="rgb").data.preprocessing == ImagePreprocessing(5, 4, 3)


def test_one_size_for_all(fill):
    root = fill(n=6)
    save(root / "light" / "odd.png", np.full((9, 9), 255, "u1"))
    with pytest.raises(UserError) as caught:
        module(root).data  # noqa: B018
    assert str(caught.value).startswith(f"{root / 'light' / 'odd.png'}: 9 × 9 pixels")
    assert "data.image_size" in str(caught.value)
    data = module(root, image_size=[10, 8], test_path=str(root)).data
    assert data.image_shape == (10, 8)
    assert data.train_x[-1].tolist() == [1.0] * 80


def test_sizes_are_reduced_with_antialias(fill, tmp_path):
    root = fill(n=6, shape=(6, 6))
    checks = np.indices((6, 6)).sum(0) % 2 * 255
    save(root / "dark" / "checks.png", checks.astype("u1"))
    data = module(root, image_size=[2, 2], test_path=str(root)).data
    # Without it a pixel would be black or white.
    assert ((data.train_x[6] - 0.5).abs() < 0.15).all()


def test_what_cannot_be_read_is_named_or_left_out(fill, capsys):
    root = fill(n=6)
    broken = root / "dark" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (root / "dark" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"dark/03\.png.*data\.skip_unreadable: true"):
        module(root).data  # noqa: B018
    data = module(root, skip_unreadable=True).data
    assert len(data.train_y) + len(data.test_y) == 11
    left_out = f"note: {root}: files left out, since they are no pictures: 1 (.txt 1)"
    # Both times that it was read.
    assert capsys.readouterr().err.splitlines() == [
        left_out,
        left_out,
        f"note: left out, since it is no picture that can be read: {broken}",
    ]


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_from_files_to_metrics_and_a_test_of_other_files(fill, run_files):
    options = ("--data.dataset", "image_folder", "--data.root", fill(n=30), "--data.deform.shift", "1")
    fitted = run_files("fit", *options, "--trainer.max_epochs", "10", "--model.lr", "0.01")
    assert metrics(fitted)["test/accuracy"] > 0.9
    names = {"confusion_test", "confusion_val", "curves", "deformed", "digits", "mistakes", "weights"}
    assert {path.stem for path in fitted.glob("*.png")} == names
    # Of another size, and of the second class alone, which would be the first without the checkpoint.
    other = fill("other", n=9, shape=(11, 7), seed=3)
    for file in (other / "dark").iterdir():
        file.unlink()
    (other / "dark").rmdir()
    tested = run_files("test", "--ckpt_path", fitted / "checkpoints" / "last.ckpt", "--data.test_path", other)
    assert metrics(tested)["test/class_accuracy"] == {"dark": None, "light": 1.0}


def test_a_checkpoint_of_colours(fill, run_files):
    root = fill(n=20)
    fitted = run_files("fit", "--data.dataset", "image_folder", "--data.root", root, "--data.channels", "rgb")
    held = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    assert (held["sizes"][0], held["data"]["image_shape"]) == (60, [5, 4, 3])
    again = run_files("validate", "--ckpt_path", fitted / "checkpoints" / "last.ckpt")
    assert metrics(again)["val/loss"] == pytest.approx(metrics(fitted)["val/loss"], rel=1e-6)
