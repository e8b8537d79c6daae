"""Event files that are taken back, on folders of events written by tensorboard and read by its own reader."""

import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from mlp_lightning.training.runs.event_files import event_files, go_back, synced_size


def write(folder, steps, tag="x"):
    """Another process's events: a file of their own."""
    with SummaryWriter(folder) as writer:
        for step in steps:
            writer.add_scalar(tag, step / 7, step)


def steps_in(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in events.Scalars("x")]


def test_what_came_after_is_gone_and_what_follows_is_read_after_it(tmp_path):
    sizes = []
    for first in range(0, 60, 5):
        # All of the same second, and of numbers whose order by name is another.
        write(tmp_path, range(first, first + 5))
        sizes.append(synced_size(tmp_path))
    assert len(event_files(tmp_path)) == 12
    for parts, left in ((10, range(50)), (7, range(35)), (2, range(10))):
        go_back(tmp_path, sizes[parts - 1], tmp_path)
        assert steps_in(tmp_path) == list(left)
        assert synced_size(tmp_path) == sizes[parts - 1]
        assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path, range(10, 15))
    assert steps_in(tmp_path) == list(range(15))
    assert synced_size(tmp_path) == sizes[2]


@pytest.mark.parametrize("missing", [1, 4, 5, 9, 50])
def test_the_tail_that_a_kill_leaves_is_cut(tmp_path, missing):
    write(tmp_path, range(5))
    (path,) = event_files(tmp_path)
    size = path.stat().st_size
    os.truncate(path, size - missing)
    go_back(tmp_path, size, tmp_path)
    whole = 4 if missing < 50 else 3
    assert steps_in(tmp_path) == list(range(whole))
    write(tmp_path, range(whole, 9))
    assert steps_in(tmp_path) == list(range(9))


def test_what_a_lost_block_left_is_cut(tmp_path):
    write(tmp_path, range(5))
    (path,) = event_files(tmp_path)
    size = path.stat().st_size
    os.truncate(path, size - 50)
    os.truncate(path, size)
    go_back(tmp_path, size, tmp_path)
    assert steps_in(tmp_path) == [0, 1, 2]


def test_a_clock_that_was_put_back(tmp_path):
    write(tmp_path, range(5))
    (path,) = event_files(tmp_path)
    path.rename(tmp_path / "events.out.tfevents.9999999998.a.host.9.3")
    go_back(tmp_path, synced_size(tmp_path), tmp_path)
    write(tmp_path, range(5, 8))
    assert steps_in(tmp_path) == list(range(8))


def test_another_folder_leaves_the_first_alone(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    write(run, range(5))
    size = synced_size(run)
    write(run, range(5, 9))
    before = {path: path.read_bytes() for path in run.iterdir()}
    go_back(run, size, other)
    assert steps_in(other) == [0, 1, 2, 3, 4]
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_no_events_are_none(tmp_path):
    (tmp_path / "events.out.tfevents.of-somebody-else").write_text("")
    assert synced_size(tmp_path) == 0
    go_back(tmp_path, 99, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path, range(5))
    size = synced_size(tmp_path)
    write(tmp_path, range(5, 9))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        go_back(tmp_path, size, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interruption_between_its_steps_is_made_good(tmp_path):
    write(tmp_path, range(5))
    size = synced_size(tmp_path)
    write(tmp_path, range(5, 9))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    go_back(tmp_path, size, tmp_path)
    for path, content in before.items():
        path.write_bytes(content)
    go_back(tmp_path, size, tmp_path)
    assert steps_in(tmp_path) == [0, 1, 2, 3, 4]
