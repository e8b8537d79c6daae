"""A checkpoint's split in files that have changed: what is told, what is refused, and minibatches that keep it."""

from dataclasses import replace

import torch
from torch import Tensor

from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.splitting.row_keys import row_keys
from mlp_lightning.data.splitting.split_record import (
    PARTS,
    TEST,
    TRAIN,
    VAL,
    Recognised,
    SplitRecord,
    first_record,
    taken,
)
from mlp_lightning.errors import UserError

# What becomes of rows that a checkpoint does not know, by command; the others train them.
NEW = {
    "test": "are not tested (data.test_path tests other samples)",
    "validate": "do not validate",
}


def changes(found: Recognised, stage: str) -> str:
    """What has changed in the files since the checkpoint, in words."""
    parts = []
    if found.new:
        parts.append(f"{found.new} samples are new and {NEW.get(stage, 'train from now on')}")
    if found.copies:
        parts.append(f"{found.copies} more copies of samples that validate or test are left out")
    gone = [
        f"{count} of {known} {name} samples"
        for name, count, known in zip(PARTS, found.gone, found.known, strict=True)
        if count
    ]
    if gone:
        parts.append(f"{' and '.join(gone)} are gone")
    if found.moved:
        parts.append("the samples stand in another order and are taken in the old one")
    return "; ".join(parts)


def check_enough_left(found: Recognised, stage: str, place: str, *, tests: bool, validates: bool) -> None:
    """Refuse files that lack most of what a checkpoint set apart: what is measured would be something else.

    Args:
        found: what the files hold.
        stage: the command.
        place: what an error names.
        tests: whether rows of these files are to test.
        validates: whether rows of these files are to validate.

    Raises:
        UserError: fewer than half of the test or validation rows are left.
    """
    way_out = {
        TEST: "or give other test samples with data.test_path",
        VAL: "or set data.validation none" if stage == "fit" else "or test other samples: test with data.test_path",
    }
    verbs = {TEST: "test", VAL: "validate"}
    for part, wanted in ((TEST, tests), (VAL, validates)):
        known, gone = found.known[part], found.gone[part]
        if part == TEST and not known:
            # Those of the training had files of their own.
            known = gone = len(found.record.test)
        if wanted and known and 2 * (known - gone) < known:
            raise UserError(
                f"{place} holds {known - gone} of the {known} samples that {verbs[part]} for the checkpoint, must be "
                f"at least half; name the files that it was trained on, {way_out[part]}"
            )


def in_minibatches(found: Recognised, validates: Tensor, place: str) -> Recognised:
    """The training samples in an order in which those at the places ``validates`` are those that validate.

    Rows that the checkpoint does not know fill what is left over.

    Raises:
        UserError: there is no such order.
    """
    if torch.equal(found.validates, validates):
        return found
    data = found.data
    n = len(data.train_y)
    train_places, val_places = others(validates, n), validates
    known = n - found.new
    train_rows, val_rows = others(found.validates, known), found.validates
    if len(train_rows) > len(train_places) or len(val_rows) > len(val_places):
        raise UserError(
            f"{place} has changed since the checkpoint: data.validation per_batch, which takes a share of every "
            "minibatch, cannot keep the samples that train apart from those that validate; use data.validation holdout"
        )
    order = torch.full((n,), -1)
    order[train_places[: len(train_rows)]] = train_rows
    order[val_places[: len(val_rows)]] = val_rows
    order[order < 0] = torch.arange(known, n)
    keys = found.record.keys.clone()
    keys[found.slots] = keys[found.slots[order]]
    return found._replace(
        data=replace(data, train_x=taken(data.train_x, order, n), train_y=data.train_y[order]),
        validates=validates,
        record=found.record._replace(keys=keys),
    )


def record_of(data: Dataset, validates: Tensor, found: Recognised | None) -> SplitRecord:
    """What a training keeps of its split.

    Args:
        data: as it trains.
        validates: the indices of the training samples that validate.
        found: what a checkpoint knew of them; None for a training that begins.
    """
    if found is None:
        return first_record(data, validates)
    parts = found.record.parts.clone()
    parts[found.slots] = TRAIN
    parts[found.slots[validates]] = VAL
    test = row_keys(data.test_x, data.test_y) if found.has_test_files else parts[:0].long()
    return SplitRecord(found.record.keys, parts, test)


def others(indices: Tensor, n: int) -> Tensor:
    """Those of 0 … n−1 that are not among the indices."""
    mask = torch.ones(n, dtype=torch.bool)
    mask[indices] = False
    return mask.nonzero().squeeze(1)
