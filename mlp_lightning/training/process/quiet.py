"""Silence what Lightning itself says and a user of this project can do nothing about; each by its own words."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

WARNINGS = (
    # A deprecation that Lightning's own code causes.
    (r".*isinstance\(treespec, LeafSpec\)", FutureWarning, r"lightning\.pytorch\.utilities\._pytree"),
    # A checkpoint within an epoch holds the state after its step, as one at the end of an epoch does.
    (
        r"Using ModelCheckpoint with manual optimization",
        UserWarning,
        r"lightning\.pytorch\.callbacks\.model_checkpoint",
    ),
    # The samples that validate have one order.
    (r"You requested to overfit but enabled val dataloader shuffling", UserWarning, r".*"),
    # A run that resumes in a folder of its own keeps its best checkpoint there,
    (r"The dirpath has changed from", UserWarning, r"lightning\.pytorch\.callbacks\.model_checkpoint"),
    # and one that resumes in its folder finds its checkpoints.
    (r"Checkpoint directory .* exists and is not empty", UserWarning, r".*"),
)


# Advertisement of another logger, and of a setting that trainer.float32_matmul_precision is for.
HINTS = ("litlogger", "that has Tensor Cores")


def quiet_lightning() -> None:
    """Drop the warnings and hints above."""
    for message, category, module in WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
    # The same function each time, so that a process of many runs has one filter.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_hint)


def _is_no_hint(record: logging.LogRecord) -> bool:
    return not any(hint in record.getMessage() for hint in HINTS)


@contextmanager
def quiet_event_writer() -> Iterator[None]:
    """Leave it to the next event to fail where a disk is full: TensorBoard's thread would print a traceback before."""
    usual = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        is_writer = type(arguments.thread).__name__ == "_AsyncWriterThread"
        if not (is_writer and isinstance(arguments.exc_value, OSError)):
            usual(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual
