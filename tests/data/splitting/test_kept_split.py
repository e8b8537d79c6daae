"""The split of a checkpoint in files that have changed: recounted by content, with plain lists and sets."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.data.module import DataModule
from mlp_lightning.data.splitting.row_keys import find_rows, row_keys
from mlp_lightning.data.splitting.split_record import split_record
from mlp_lightning.errors import UserError

KINDS = ("csv", "image_folder", "arrays", "mapped")
IDS = list(range(60))


def write(kind, folder, ids):
    """Samples that can be told apart, of two classes; returns data.root."""
    folder.mkdir(exist_ok=True)
    if kind == "csv":
        lines = [f"{k},{k % 7},{'odd' if k % 2 else 'even'}" for k in ids]
        (folder / "t.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
        return folder / "t.csv"
    if kind == "image_folder":
        for path in folder.rglob("*.png"):
            path.unlink()
        for place, k in enumerate(ids):
            (folder / str(k % 2)).mkdir(exist_ok=True)
            Image.fromarray(np.array([[k % 250, k // 250]], "u1")).save(folder / str(k % 2) / f"{place:04}.png")
        return folder
    np.save(folder / "x.npy", np.array([[k, k % 7] for k in ids], "f4"))
    np.save(folder / "y.npy", np.array([k % 2 for k in ids]))
    return folder


def module(kind, root, description=None, stage="fit", **options):
    if kind == "csv":
        options = {"label": "label", **options}
    if kind == "mapped":
        options = {"memory_budget": 1e-5, **options}
    data = DataModule(dataset="arrays" if kind == "mapped" else kind, root=str(root), **options)
    if description is not None:
        data.read_as(description)
    data.setup(stage)
    return data


def ids_in(kind, data, x):
    """The samples' numbers, read back from what the network gets."""
    x = x[:].double().numpy()
    if kind == "image_folder":
        values = np.rint(x * 255).astype(int)
        return [int(a + 250 * b) for a, b in values]
    if kind == "csv":
        column = data.data.preprocessing.columns[0]
        return [round(float(value)) for value in x[:, 0] * column.std + column.mean]
    return [int(value) for value in x[:, 0]]


def parts(kind, data):
    """Who trains, validates and tests."""
    train, val = data._train_indices, data._validation_indices
    if data.validation == "per_batch":
        train = torch.tensor([k for k in range(len(data.data.train_y)) if k not in set(val.tolist())])
    whole = data.data.train_x
    return [ids_in(kind, data, x) for x in (whole[train], whole[val], data.data.test_x)]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


CHANGES = {
    "appended": [*IDS, *range(60, 90)],
    "put in front": [*range(100, 130), *IDS],
    "deleted": [k for k in IDS if k % 5],
    "in another order": random.Random(1).sample(IDS, 60),
    "doubled": [*IDS, *IDS],
    "all at once": random.Random(2).sample([*range(8, 60), *range(200, 230), *range(30)], 112),
}


@pytest.mark.parametrize("change", CHANGES)
def test_who_trained_validated_and_tested_does_so_again(kind, tmp_path, change, capsys):
    root = write(kind, tmp_path / "data", IDS)
    before = module(kind, root)
    train, val, test = parts(kind, before)
    assert sorted(train + val + test) == IDS
    there = Counter(CHANGES[change])
    write(kind, tmp_path / "data", CHANGES[change])
    after = module(kind, root, before.description())
    new_train, new_val, new_test = parts(kind, after)
    # In the order of the training, each as often as it was.
    assert new_val == [k for k in val if there[k]]
    assert new_test == [k for k in test if there[k]]
    assert new_train[: len([k for k in train if there[k]])] == [k for k in train if there[k]]
    assert not set(new_train) & (set(val) | set(test))
    assert set(new_train) == set(there) - set(val) - set(test)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: data.root: {root} has changed since the checkpoint: ")
    if new := len(new_train) - len([k for k in train if there[k]]):
        assert f"{new} samples are new and train from now on" in line


def test_the_new_rows_of_one_training_are_known_to_the_next(kind, tmp_path, capsys):
    root = write(kind, tmp_path / "data", IDS)
    first = module(kind, root)
    a = parts(kind, first)
    write(kind, tmp_path / "data", [*range(70, 90), *IDS[3:]])
    second = module(kind, root, first.description())
    b = parts(kind, second)
    # Rows that were away for a while have not become others.
    write(kind, tmp_path / "data", [*range(70, 90), *IDS])
    capsys.readouterr()
    third = module(kind, root, second.description())
    c = parts(kind, third)
    assert a[1] == c[1]
    assert a[2] == c[2]
    assert set(c[0]) == set(a[0]) | set(range(70, 90))
    assert set(b[0]) == set(c[0]) - set(IDS[:3])
    assert "samples are new" not in capsys.readouterr().err


def test_unchanged_files_are_split_as_without_a_checkpoint(kind, tmp_path, capsys):
    ids = [k % 40 for k in IDS]
    root = write(kind, tmp_path / "data", ids)
    before = module(kind, root)
    after = module(kind, root, before.description())
    # Only the repeated samples are told, by each training.
    train, _, test = parts(kind, before)
    repeated = sum(identity in set(train) for identity in test)
    line = f"note: data.root: {repeated} of the {len(test)} samples that test are among those that train\n"
    assert repeated > 0
    assert capsys.readouterr().err == 2 * line
    assert torch.equal(after.data.train_x[:], before.data.train_x[:])
    assert torch.equal(after.data.train_y, before.data.train_y)
    assert torch.equal(after.data.test_x[:], before.data.test_x[:])
    assert torch.equal(after._train_indices, before._train_indices)
    assert after._record.equals(before._record)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("test", "5 samples are new and are not tested (data.test_path tests other samples)"),
        ("validate", "5 samples are new and do not validate"),
        ("check", "5 samples are new and train from now on"),
    ],
)
def test_each_command_says_what_becomes_of_new_rows(tmp_path, stage, words, capsys):
    root = write("csv", tmp_path / "data", IDS)
    before = module("csv", root)
    write("csv", tmp_path / "data", [*IDS, *range(60, 65)])
    after = module("csv", root, before.description(), stage)
    assert parts("csv", after)[1:] == parts("csv", before)[1:]
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "keep", "message"),
    [
        (
            "test",
            "train",
            "holds 0 of the 12 samples that test for the checkpoint, must be at least half",
        ),
        ("fit", "train", "samples that test for the checkpoint"),
        ("validate", "test", "holds 0 of the 5 samples that validate for the checkpoint"),
        ("test", "none", "holds 0 of the 12 samples that test"),
    ],
)
def test_files_that_lack_what_was_set_apart_are_refused(kind, tmp_path, stage, keep, message):
    root = write(kind, tmp_path / "data", IDS)
    before = module(kind, root)
    train, _, test = parts(kind, before)
    write(kind, tmp_path / "data", {"train": train, "test": test, "none": range(100, 140)}[keep])
    with pytest.raises(UserError, match=message):
        module(kind, root, before.description(), stage)


def test_a_command_asks_only_for_the_rows_it_needs(tmp_path):
    root = write("csv", tmp_path / "data", IDS)
    before = module("csv", root)
    _, val, test = parts("csv", before)
    write("csv", tmp_path / "data", [*val, *test])
    assert parts("csv", module("csv", root, before.description(), "test"))[2] == test
    assert parts("csv", module("csv", root, before.description(), "validate"))[1] == val
    with pytest.raises(UserError, match="samples for 2 classes in its training part"):
        module("csv", root, before.description(), "fit")


def test_the_same_values_in_another_notation_are_the_same_rows(tmp_path, capsys):
    root = write("csv", tmp_path / "data", IDS)
    before = module("csv", root)
    lines = [f"{'odd' if k % 2 else 'even'};{k % 7:.1f};note;{k}.00" for k in IDS]
    root.write_text("\n".join(["label;b;more;a", *lines]))
    assert parts("csv", module("csv", root, before.description())) == parts("csv", before)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["appended", "in another order"])
def test_per_batch_keeps_who_trains(tmp_path, change):
    options = {"validation": "per_batch", "shuffle": False, "batch_size": 10}
    root = write("csv", tmp_path / "data", IDS)
    before = module("csv", root, **options)
    write("csv", tmp_path / "data", CHANGES[change])
    after = module("csv", root, before.description(), **options)
    (train, val, test), (new_train, new_val, new_test) = parts("csv", before), parts("csv", after)
    assert new_test == test
    assert set(train) <= set(new_train)
    assert set(val) <= set(new_val)
    assert not set(new_train) & set(new_val)
    # And once more, from what that training keeps.
    assert parts("csv", module("csv", root, after.description(), **options)) == [new_train, new_val, new_test]


def test_per_batch_is_refused_where_it_would_mix(tmp_path):
    options = {"validation": "per_batch", "shuffle": False, "batch_size": 10}
    root = write("csv", tmp_path / "data", IDS)
    before = module("csv", root, **options)
    train, val, test = parts("csv", before)
    write("csv", tmp_path / "data", [*train[6:], *val, *test])
    with pytest.raises(UserError, match=r"per_batch, .* use data.validation holdout"):
        module("csv", root, before.description(), **options)
    assert parts("csv", module("csv", root, before.description()))[1] == val
    assert parts("csv", module("csv", root, before.description(), "validate", **options))[1] == val


def test_without_validation_all_but_the_test_rows_train(tmp_path, capsys):
    root = write("csv", tmp_path / "data", IDS)
    before = module("csv", root, validation="none")
    write("csv", tmp_path / "data", [*range(90, 95), *IDS])
    after = module("csv", root, before.description(), validation="none")
    train, _, test = parts("csv", before)
    assert parts("csv", after) == [[*train, *range(90, 95)], [], test]
    capsys.readouterr()
    module("csv", root, after.description())
    assert "trained on all samples, also on those that validate now" in capsys.readouterr().err


def test_a_test_set_of_its_own_is_not_drawn_again(kind, tmp_path, capsys):
    root = write(kind, tmp_path / "data", IDS)
    other = write(kind, tmp_path / "other", range(300, 320))
    before = module(kind, root, test_path=str(other))
    train, val, test = parts(kind, before)
    assert test == sorted(test) == list(range(300, 320)) or kind == "image_folder"
    write(kind, tmp_path / "data", [*range(90, 95), *IDS])
    assert capsys.readouterr().err == ""
    after = module(kind, root, before.description(), test_path=str(other))
    new_train, new_val, new_test = parts(kind, after)
    assert (new_val, new_test) == (val, test)
    assert new_train[: len(train)] == train
    assert "5 samples are new" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds 0 of the 20 samples that test"):
        module(kind, root, before.description())


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_test_rows_that_trained_are_told(kind, tmp_path, stage, capsys):
    root = write(kind, tmp_path / "data", IDS)
    before = module(kind, root)
    train, val, test = parts(kind, before)
    other = write(kind, tmp_path / "other", [*train[:7], *test, 500])
    after = module(kind, root, before.description(), stage, test_path=str(other))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"note: data.test_path: 7 of the {8 + len(test)} samples that test are among those that ")
    if stage == "fit":
        # What was set apart does not train, though it need not test any more.
        assert parts(kind, after)[:2] == [train, val]


def test_a_checkpoint_without_rows_splits_by_place_and_says_so(kind, tmp_path, capsys):
    root = write(kind, tmp_path / "data", IDS)
    before = module(kind, root)
    old = {name: value for name, value in before.description().items() if name != "rows"}
    after = module(kind, root, old)
    assert parts(kind, after) == parts(kind, before)
    (line,) = capsys.readouterr().err.splitlines()
    assert "drawn by their place" in line
    assert after._record.equals(before._record)


def test_keys_are_those_of_rows_and_classes(tmp_path):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 2
    keys = row_keys(x, y)
    assert len(set(keys.tolist())) == 50
    assert torch.equal(row_keys(x.flip(0), y.flip(0)).flip(0), keys)
    assert not (row_keys(x, 1 - y) == keys).any()
    twice = torch.cat([keys[:4], keys])
    assert find_rows(twice, torch.cat([keys[2:], keys[:3]])).tolist() == [48, 49, 0, 1, -1, -1, 50, -1, *range(2, 48)]
    assert find_rows(keys, keys[:0]).tolist() == [-1] * 50


@pytest.mark.parametrize(
    "change",
    [
        {"keys": torch.zeros(60)},
        {"keys": torch.zeros(59, dtype=torch.int64)},
        {"keys": [1] * 60},
        {"parts": torch.full((60,), 3, dtype=torch.uint8)},
        {"test": torch.zeros(2, 2, dtype=torch.int64)},
        {"more": 1},
    ],
)
def test_a_record_of_another_kind_is_refused(tmp_path, change):
    before = module("csv", write("csv", tmp_path / "data", IDS)).description()
    split_record(before["rows"])
    with pytest.raises(UserError, match="does not say how its data were read"):
        DataModule(dataset="csv", root="x", label="label").read_as({**before, "rows": {**before["rows"], **change}})
