"""Which checkpoint a training goes on from, on folders of runs made for it."""

import os

import pytest
import torch
from jsonargparse import Namespace

from mlp_lightning.training.runs.checkpoint import AtomicCheckpointIO
from mlp_lightning.training.runs.newest import EVENTS, changed_options, newest_checkpoint, note_start, origin_of
from mlp_lightning.training.runs.run_logger import RunLogger

CONTENT = {"state_dict": {"w": torch.zeros(3)}, "hyper_parameters": {}, "sizes": [3, 1], "history": {}, "window": {}}


@pytest.fixture
def make_run(tmp_path):
    """A run ``version_N`` with the checkpoints named, the oldest first; a name with ! is damaged."""

    def make(number, *names, resumed_from=None, started=True):
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        if started:
            note_start(folder, None if resumed_from is None else str(tmp_path / resumed_from))
        for age, name in enumerate(names):
            path = folder / "checkpoints" / f"{name.strip('!')}.ckpt"
            AtomicCheckpointIO().save_checkpoint({**CONTENT, "name": f"{number} {name}"}, path)
            if "!" in name:
                path.write_bytes(path.read_bytes()[:-40])
            os.utime(path, (1_000_000 + age, 1_000_000 + age))

    return make


def newest(folder):
    path, content, passed_over = newest_checkpoint(folder)
    return None if path is None else str(path.relative_to(folder)), content.get("name"), len(passed_over)


LAST = "version_{}/checkpoints/last.ckpt"


def test_no_run_has_no_checkpoint(tmp_path):
    assert newest(tmp_path / "none") == newest(tmp_path) == (None, None, 0)


def test_last_of_the_highest_number(make_run, tmp_path):
    for number in (2, 9, 10):
        make_run(number, "last", "best")
    (tmp_path / "version_x").mkdir()
    assert newest(tmp_path) == (LAST.format(10), "10 last", 0)


def test_a_damaged_last_gives_way_to_the_newest_of_the_others(make_run, tmp_path):
    make_run(0, "step=3", "best", "last!")
    assert newest(tmp_path) == ("version_0/checkpoints/best.ckpt", "0 best", 1)


def test_a_run_killed_before_its_first_checkpoint_is_where_it_was_resumed_from(make_run, tmp_path):
    make_run(0, "last")
    make_run(1, "best", "last!", resumed_from=LAST.format(0))
    make_run(2, resumed_from=LAST.format(1))
    assert newest(tmp_path) == ("version_1/checkpoints/best.ckpt", "1 best", 1)


def test_a_run_whose_checkpoints_are_damaged_is_where_it_was_resumed_from(make_run, tmp_path):
    make_run(0, "last")
    make_run(1, "best!", "last!", resumed_from=LAST.format(0))
    assert newest(tmp_path) == (LAST.format(0), "0 last", 2)


def test_a_run_that_began_anew_does_not_go_on_from_another(make_run, tmp_path):
    make_run(0, "last")
    make_run(1)
    assert newest(tmp_path) == (None, None, 0)


def test_evaluations_are_no_trainings(make_run, tmp_path):
    make_run(0, "last")
    make_run(1, started=False)
    assert newest(tmp_path) == (LAST.format(0), "0 last", 0)


def test_a_file_that_is_gone_is_told(make_run, tmp_path):
    make_run(0, resumed_from="gone.ckpt")
    assert newest(tmp_path) == (None, None, 1)


def test_runs_that_name_one_another_end(make_run, tmp_path):
    make_run(0, "last!", resumed_from=LAST.format(1))
    make_run(1, "last!", resumed_from=LAST.format(0))
    assert newest(tmp_path)[0] is None


def test_options_that_differ_are_told():
    options = Namespace(lr=0.1, hidden=[3], deform=Namespace(scale=1.0))
    trained = {"lr": 0.5, "hidden": [3], "deform": {"scale": 2.0}, "gone": 1}
    assert changed_options("model", options, trained) == [
        "model.lr: 0.1 from now on, the checkpoint was trained with 0.5",
        "model.deform.scale: 1.0 from now on, the checkpoint was trained with 2.0",
    ]


@pytest.fixture
def origin(make_run, tmp_path):
    """The origin of a checkpoint of version_0, whose last.ckpt has come to step 8 and best.ckpt to step 4."""
    make_run(0)
    make_run(1)
    for name, step in (("last", 8), ("best", 4)):
        path = tmp_path / f"version_0/checkpoints/{name}.ckpt"
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": step, EVENTS: 100}, path)

    def find(path, *, changed=False, step=4, content=None):
        content = {"global_step": step, EVENTS: 100} if content is None else content
        return origin_of(tmp_path / path, content, tmp_path, changed=changed)

    return find


def test_a_run_goes_on_in_its_folder(origin, tmp_path):
    assert origin(LAST.format(0), step=8) == (tmp_path / "version_0", True)
    # A kill may come between the two: then best.ckpt is ahead.
    assert origin(LAST.format(0), step=3) == (tmp_path / "version_0", True)
    assert origin("version_0/checkpoints/best.ckpt", step=8) == (tmp_path / "version_0", True)
    assert origin(LAST.format(0)).version == 0


def test_other_options_and_earlier_steps_get_a_folder_of_their_own(origin, tmp_path):
    assert origin(LAST.format(0), step=8, changed=True) == (tmp_path / "version_0", False)
    assert origin("version_0/checkpoints/best.ckpt", step=4) == (tmp_path / "version_0", False)


def test_a_later_checkpoint_that_is_damaged_keeps_nobody_from_going_on(origin, tmp_path):
    path = tmp_path / LAST.format(0)
    path.write_bytes(path.read_bytes()[:-40])
    assert origin("version_0/checkpoints/best.ckpt", step=4) == (tmp_path / "version_0", True)


@pytest.mark.parametrize(
    "path",
    ["last.ckpt", "version_0/last.ckpt", "checkpoints/last.ckpt", "other/version_0/checkpoints/last.ckpt"],
)
def test_a_file_from_elsewhere_has_no_origin(origin, path):
    assert origin(path) is None


def test_a_checkpoint_of_an_older_version_has_no_origin(origin):
    assert origin(LAST.format(0), content={"global_step": 8}) is None


ODD_STARTS = {
    "list": b"[]",
    "nested": b"[" * 100_000,
    "number": b"5",
    "text": b'"x"',
    "null": b"null",
    "other keys": b'{"resumed": null}',
    "number in it": b'{"resumed_from": 5}',
    "list in it": b'{"resumed_from": []}',
    "null byte": b'{"resumed_from": "a\\u0000b"}',
    "empty name": b'{"resumed_from": ""}',
    "binary": bytes(range(256)),
    "empty": b"",
    "huge": b" " * 200_000 + b'{"resumed_from": null}',
    "huge number": b'{"resumed_from": ' + b"9" * 10_000 + b"}",
    "surrogate": b'{"resumed_from": "\\udcff"}',
    "itself": b'{"resumed_from": "version_3/checkpoints/last.ckpt"}',
    "long": b'{"resumed_from": "' + b"x" * 5000 + b'"}',
}


@pytest.mark.parametrize("name", ODD_STARTS)
def test_a_damaged_start_is_skipped_with_a_line(make_run, tmp_path, name):
    make_run(2, "last")
    make_run(3, "last!")
    (tmp_path / "version_3" / "started.json").write_bytes(ODD_STARTS[name])
    path, _, skipped = newest_checkpoint(tmp_path)
    assert path is None
    assert len(skipped) >= 2
    assert all("\n" not in line for line in skipped)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling", "circle"])
def test_a_start_that_is_no_file(make_run, tmp_path, kind):
    make_run(3, "last!", started=False)
    path = tmp_path / "version_3" / "started.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nothing" if kind == "dangling" else path)
    found, _, skipped = newest_checkpoint(tmp_path)
    assert found is None
    assert skipped


@pytest.mark.parametrize(
    "name", ["version_²", "version_1e3", "version_-1", "version_007", "version_٣", "version_", "version_" + "9" * 30]
)
def test_other_names_are_no_runs(make_run, tmp_path, name):
    make_run(3, "last")
    (tmp_path / "version_3").rename(tmp_path / name)
    make_run(2, "last")
    assert newest(tmp_path)[0] == LAST.format(2)
    logger = RunLogger(tmp_path.parent, tmp_path.name)
    assert logger.version == 3


def test_a_run_that_links_to_itself_is_skipped(make_run, tmp_path):
    make_run(2, "last", "best")
    (tmp_path / "version_3").symlink_to("version_3")
    path, content, _ = newest_checkpoint(tmp_path)
    assert path == tmp_path / LAST.format(2)
    assert origin_of(path, {**content, EVENTS: 0}, tmp_path, changed=False).version == 2
    note_start(tmp_path / "version_2", str(tmp_path / "version_3" / "x"))


def test_what_is_no_file_is_no_checkpoint(make_run, tmp_path):
    make_run(3, "best")
    folder = tmp_path / "version_3" / "checkpoints"
    (folder / "last.ckpt").symlink_to("nothing")
    (folder / "a.ckpt").symlink_to("a.ckpt")
    (folder / "b.ckpt").mkdir()
    os.mkfifo(folder / "c.ckpt")
    assert newest(tmp_path) == ("version_3/checkpoints/best.ckpt", "3 best", 0)
