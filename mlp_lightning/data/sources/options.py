"""The options of sets that are the user's own: where their files are, and how to read them."""

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlp_lightning.data.images.pictures import MOST_PIXELS
from mlp_lightning.data.tabular.columns import Unknown
from mlp_lightning.errors import UserError
from mlp_lightning.memory import machine_memory

Missing = Literal["error", "mean", "median", "most_frequent"]
Channels = Literal["grey", "rgb"]


class OwnSource(NamedTuple):
    """What reads a kind of files: a function of a module, imported when it is needed, and the options it takes."""

    module: str
    function: str
    options: tuple[str, ...]


FOLDER = "mlp_lightning.data.sources"
OWN = {
    "image_folder": OwnSource(
        f"{FOLDER}.image_folder", "load_image_folder", ("image_size", "channels", "skip_unreadable")
    ),
    "csv": OwnSource(f"{FOLDER}.csv_file", "load_csv", ("label", "categorical", "ignore", "missing", "unknown")),
    "arrays": OwnSource(f"{FOLDER}.arrays", "load_arrays", ("memory_budget",)),
}
OPTIONS_OF = {name: source.options for name, source in OWN.items()}
# Every own set has them.
SHARED = ("test_path", "test_size", "test_seed")
# Of the machine's memory, for one set; training keeps a copy of what is not mapped.
SHARE_OF_MEMORY = 0.25
# Bytes, where the system does not tell.
UNKNOWN_MEMORY = 4e9


@dataclass(frozen=True)
class SourceOptions:
    """Options of ``data.`` by their names there; DataModule explains them.

    Raises:
        UserError: a value is outside its range.
    """

    root: str | None = None
    test_path: str | None = None
    test_size: int | float = 0.2
    image_size: tuple[int, int] | None = None
    channels: Channels | None = None
    skip_unreadable: bool = False
    label: str | float | None = None
    categorical: tuple[str | float, ...] = ()
    ignore: tuple[str | float, ...] = ()
    missing: Missing = "error"
    unknown: Unknown = "error"
    memory_budget: float | None = None
    test_seed: int = 0

    def __post_init__(self) -> None:
        size = self.image_size
        if size is not None and (len(size) != 2 or min(size) < 1 or math.prod(size) > MOST_PIXELS):
            raise UserError(
                f"data.image_size: got {list(size)}, must be [height, width], each at least 1 (pixels), "
                f"together at most {MOST_PIXELS:,}"
            )
        if not (0 < self.test_size < 1 or (self.test_size >= 1 and self.test_size % 1 == 0)):
            raise UserError(
                f"data.test_size: got {self.test_size}, must be a count of at least 1 or a fraction in (0, 1)"
            )
        if not 0 <= self.test_seed < 2**32:
            raise UserError(f"data.test_seed: got {self.test_seed}, must be from 0 to 4294967295")
        if self.memory_budget is not None and not 0 < self.memory_budget < float("inf"):
            raise UserError(f"data.memory_budget: got {self.memory_budget}, must be above zero and finite (MB)")

    def check_dataset(self, dataset: str) -> None:
        """Refuse an option that the set does not take, and a set of the user's own without a place.

        Raises:
            UserError: likewise.
        """
        taken = {"root", *OPTIONS_OF.get(dataset, ()), *(SHARED if dataset in OPTIONS_OF else ())}
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in taken and value != option.default:
                shown = list(value) if isinstance(value, tuple) else value
                takers = [name for name, names in OPTIONS_OF.items() if option.name in (*SHARED, *names)]
                raise UserError(
                    f"data.{option.name}: got {shown}, but data.dataset {dataset} does not take it; "
                    f"{' and '.join(takers)} do{'es' if len(takers) == 1 else ''}"
                )
        if dataset in OPTIONS_OF and self.root is None:
            raise UserError(f"data.root: got null, must be the files of data.dataset {dataset}")

    @property
    def budget(self) -> float:
        """Bytes that a set of arrays may take before it stays on disk."""
        if self.memory_budget is not None:
            return self.memory_budget * 1e6
        return SHARE_OF_MEMORY * (machine_memory() or UNKNOWN_MEMORY)


def source_options(values: dict[str, Any]) -> SourceOptions:
    """Of options as a config has them, with lists."""
    hashable: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return SourceOptions(**hashable)


def existing(path: str, option: str) -> Path:
    """The path that an option names.

    Raises:
        UserError: it is not there.
    """
    found = Path(path).expanduser()
    # The functions of os.path take a name that is too long for one that is not there. A pipe or a device is no file.
    if not path or not (os.path.isfile(found) or os.path.isdir(found)):
        raise UserError(f"data.{option}: got {path or 'nothing'}, but there is no such file or folder")
    return found
