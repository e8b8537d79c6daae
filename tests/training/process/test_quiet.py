import threading

import pytest
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from mlp_lightning.training.process.quiet import quiet_event_writer


class Writer(_AsyncWriterThread):
    def __init__(self, error):
        threading.Thread.__init__(self)
        self.error = error

    def run(self):
        raise self.error


Writer.__name__ = _AsyncWriterThread.__name__


@pytest.mark.parametrize(("error", "told"), [(OSError(28, "no space"), False), (ValueError("a fault"), True)])
def test_the_event_writer_is_silent_about_its_file_alone(monkeypatch, error, told):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with quiet_event_writer():
        thread = Writer(error)
        thread.start()
        thread.join()
    assert bool(seen) == told
    assert threading.excepthook == seen.append


def test_another_thread_is_heard(monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    def work():
        raise OSError(28, "no space")

    with quiet_event_writer():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(seen) == 1
