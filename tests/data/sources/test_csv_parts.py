"""A folder of tables: which is the training, the validation and the test part, by their names."""

import pandas as pd
import pytest

from mlp_lightning.data.module import DataModule
from mlp_lightning.data.sources.csv_file import table_parts
from mlp_lightning.errors import UserError


def table(n, low=0.0):
    """n rows whose column begins at ``low``, to tell parts from each other."""
    return pd.DataFrame({"size": [low + k / 10 for k in range(n)], "kind": ["a", "b"] * (n // 2)})


def module(folder, **tables):
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return DataModule(dataset="csv", root=str(folder), label="kind")


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "valid", "testing"), ("trainSet", "dev", "TEST")]
)
def test_every_part_is_used_and_only_the_training_part_teaches(tmp_path, capsys, names):
    parts = (table(40), table(10, 100), table(20, 200))
    it = module(tmp_path, **dict(zip(names, parts, strict=True)))
    it.setup("fit")
    assert [int(count.sum()) for count in it.part_counts.values()] == [40, 10, 20]
    size = parts[0]["size"]
    for frame, x in zip(parts, (it.data.train_x, it.data.val_x, it.data.test_x), strict=True):
        expected = (frame["size"] - size.mean()) / size.std(ddof=0)
        assert x[:, 0].tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)
    assert capsys.readouterr().err == ""


def test_tables_that_are_no_part_are_told(tmp_path, capsys):
    assert len(module(tmp_path, train=table(40), sample_submission=table(4)).data.train_y) == 32
    assert "tables left out, since they are neither train, val nor test: sample_submission.csv" in (
        capsys.readouterr().err
    )


def test_one_table_a_part(tmp_path):
    module(tmp_path, test=table(4))
    with pytest.raises(UserError, match=r"must be a CSV file or a folder with train\.csv"):
        table_parts(tmp_path)
    module(tmp_path, train=table(4), val=table(4), valid=table(4))
    with pytest.raises(UserError, match=r"has val\.csv and valid\.csv, must have one of them"):
        table_parts(tmp_path)
