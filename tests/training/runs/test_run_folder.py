import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from mlp_lightning.errors import UserError
from mlp_lightning.training.runs.event_files import event_files
from mlp_lightning.training.runs.run_folder import run_folder, tensorboard, write_json
from mlp_lightning.training.runs.run_logger import make_logger


def test_each_run_has_the_next_free_number(tmp_path):
    for number in range(2):
        logger = make_logger(str(tmp_path), "relu")
        assert logger.log_dir == str(tmp_path / "lightning_logs" / "relu" / f"version_{number}")
        logger.experiment.close()
    assert make_logger(str(tmp_path), "adam").version == 0


def test_a_record_is_one_event(tmp_path):
    logger = make_logger(str(tmp_path), "relu")
    logger.log_metrics({"train/loss": 0.25, "optim/lr": 0.5}, 7)
    # As a callback of somebody's own may give them.
    logger.log_metrics({"norm": torch.tensor(2.0)}, 7)
    logger.finalize("success")
    # After its file was closed, as the test's results come.
    logger.log_metrics({"test/loss": 0.125}, 8)
    logger.experiment.close()
    events = [event for path in event_files(Path(logger.log_dir)) for event in EventFileLoader(str(path)).Load()]
    found = [
        (event.step, [(value.tag, tensor_util.make_ndarray(value.tensor).item()) for value in event.summary.value])
        for event in events
        if event.HasField("summary")
    ]
    assert found == [
        (7, [("train/loss", 0.25), ("optim/lr", 0.5)]),
        (7, [("norm", 2.0)]),
        (8, [("test/loss", 0.125)]),
    ]


def claim(root, barrier, queue):
    logger = make_logger(root, "relu")
    barrier.wait()
    queue.put(logger.log_dir)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_runs_that_begin_at_once_have_folders_of_their_own(tmp_path):
    root, runs = tmp_path / "größe $HOME 画像", 12
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(runs), context.Queue()
    processes = [context.Process(target=claim, args=(str(root), barrier, queue)) for _ in range(runs)]
    for process in processes:
        process.start()
    folders = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert folders == {str(root / "lightning_logs" / "relu" / f"version_{number}") for number in range(runs)}
    assert {str(path) for path in (root / "lightning_logs" / "relu").iterdir()} == folders


def test_a_logger_that_is_not_used_leaves_no_run(tmp_path):
    make_logger(str(tmp_path), "relu")
    assert list((tmp_path / "lightning_logs" / "relu").iterdir()) == []


def test_other_processes_of_a_run_claim_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert make_logger(str(tmp_path), "relu").version == 0
    assert list((tmp_path / "lightning_logs" / "relu").iterdir()) == []


def test_a_file_in_the_way_is_passed_over(tmp_path):
    folder = tmp_path / "lightning_logs" / "relu"
    folder.mkdir(parents=True)
    (folder / "version_0").write_text("")
    assert make_logger(str(tmp_path), "relu").version == 1


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^trainer\.default_root_dir: got .*file, but .* cannot be made: "):
        make_logger(str(tmp_path / "file"), "relu")


def test_a_run_without_logger_has_no_folder(make_parts):
    trainer = make_parts().trainer
    assert run_folder(trainer) is None
    assert tensorboard(trainer) is None


def test_the_folder_is_made_on_demand(make_parts, tmp_path):
    trainer = make_parts(logger=make_logger(str(tmp_path), "relu")).trainer
    folder = run_folder(trainer)
    assert folder.is_dir()
    assert folder.parent == tmp_path / "lightning_logs" / "relu"


def test_json_replaces_what_was_there_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    write_json(path, {"test/loss": 0.1, "nested": {"a": 1}})
    assert json.loads(path.read_text()) == {"test/loss": 0.1, "nested": {"a": 1}}
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_cannot_be_made_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
