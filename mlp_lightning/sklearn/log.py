"""The records of a training, for TensorBoard, which is imported where there is something to write."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlp_lightning.epochs import Record


@contextmanager
def log_to(folder: str | None) -> Iterator[Callable[[Record, int], None]]:
    """What writes records for TensorBoard into a folder; nothing without one."""
    if folder is None:
        yield lambda record, step: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:

        def write(record: Record, step: int) -> None:
            for name, value in record.items():
                writer.add_scalar(name, value, step)

        yield write
