import gc
import weakref

import pytest

from mlp_lightning.training.process.settled_objects import settled_objects


class Knot:
    """An object that only the collector can free."""

    def __init__(self):
        self.itself = self


def test_the_collector_passes_over_what_was_there_before():
    before = weakref.ref(Knot())
    with settled_objects():
        later = weakref.ref(Knot())
        gc.collect()
        assert before() is not None
        assert later() is None
    gc.collect()
    assert before() is None


def test_all_is_as_before_when_the_training_fails():
    with pytest.raises(KeyError), settled_objects():
        raise KeyError
    assert gc.get_freeze_count() == 0
