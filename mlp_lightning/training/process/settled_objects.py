"""Python's search for garbage skips what was there before a training."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_objects() -> Iterator[None]:
    """Keep the objects of now out of the collector's searches: half a million that importing made and that stay.

    To look through them takes as long as some hundred steps of a small network, in the midst of an epoch.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
