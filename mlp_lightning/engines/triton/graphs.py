"""CUDA graphs: launches that are recorded once, to be replayed without Python between them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


@contextmanager
def recording(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Record what the block launches, on a stream of its own; nothing of it may be launched for the first time."""
    stream, before = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream), _without_collection():
        # Other threads, of TensorBoard or of a loader, go on meanwhile.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            yield
        except BaseException:
            # Or all that is launched from here on would fail too, and hide what failed.
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    before.wait_stream(stream)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Python's garbage may hold graphs of trainings before, which cannot be given back while others are recorded."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
