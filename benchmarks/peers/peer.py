"""What a contender is: something that trains a task epoch by epoch, on the digits and first weights of all others."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from networks import NOTEBOOK, TRAINING_IMAGES, Digits

from mlp_lightning.training.options import SCHEDULE_OPTIONS, make_schedule

# Options of a config that a Task carries.
SHARED = {
    "trainer": {"max_epochs", "log_every_n_steps"},
    "model": {"hidden", "activation", "init", "optimizer", "lr", "schedule", "warmup_epochs", *SCHEDULE_OPTIONS},
    "data": {"dataset", "batch_size", "validation", "validation_size", "shuffle"},
}


class Task(NamedTuple):
    """A training: mean cross-entropy of a ReLU network over minibatches, shuffled anew each epoch."""

    batch_size: int
    optimizer: str = "sgd"
    lr: float = 0.01
    sizes: tuple[int, ...] = NOTEBOOK
    training_images: int = TRAINING_IMAGES
    epochs: int = 1
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    schedule_options: dict[str, float] = {}  # noqa: RUF012 (never changed)
    # The file these come from, for who can read it, and what in it only that one follows.
    config: str | None = None
    unshared: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, path: Path) -> "Task":
        """The recipe of a config of the project, as far as all contenders can follow it.

        Raises:
            ValueError: it trains otherwise than a Task can say.
        """
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        model, data = config["model"], config["data"]
        for name, value in {"activation": "relu", "init": "he_normal", "optimizer": "adam"}.items():
            if model.get(name, value) != value:
                raise ValueError(f"{path}: model.{name} is {model[name]}, must be {value} in a race")
        return cls(
            batch_size=data["batch_size"],
            optimizer="adam",
            lr=model["lr"],
            sizes=(784, *model["hidden"], 10),
            training_images=60_000 - data["validation_size"],
            epochs=config["trainer"]["max_epochs"],
            schedule=model.get("schedule", "constant"),
            warmup_epochs=model.get("warmup_epochs", 0.0),
            schedule_options={name: model[name] for name in SCHEDULE_OPTIONS if name in model},
            config=str(path),
            unshared=tuple(f"{part}.{name}" for part, known in SHARED.items() for name in {*config[part]} - known),
        )

    @property
    def steps(self) -> int:
        """In an epoch; the last minibatch may be smaller."""
        return math.ceil(self.training_images / self.batch_size)

    def rates(self) -> np.ndarray:
        """The learning rate of every step, ``(epochs, steps)``."""
        schedule = make_schedule(
            self.schedule,
            self.schedule_options,
            warmup_epochs=self.warmup_epochs,
            steps_per_epoch=self.steps,
            total_steps=self.epochs * self.steps,
        )
        rates = [self.lr * schedule(step) for step in range(self.epochs * self.steps)]
        return np.array(rates, dtype=np.float32).reshape(self.epochs, self.steps)


class Unavailable(Exception):
    """Why a contender cannot do a task, in words."""


AfterEpoch = Callable[[float], bool]


class Peer(ABC):
    """A contender. It may be trained again and again: what was compiled stays compiled.

    The clock that all share: an epoch's seconds run from before its shuffling until its last update is done. Evaluation
    lies outside, and so do data in memory, imports and, by a first training that is not counted, compilation.
    """

    def __init__(self, task: Task, data: Digits) -> None:
        self.task = task
        self.data = data

    @abstractmethod
    def start(self, seed: int) -> None:
        """Take the first weights of a seed, and a fresh optimizer."""

    @abstractmethod
    def epoch(self) -> None:
        """Train for one epoch."""

    @abstractmethod
    def accuracy(self) -> float:
        """On the test images, in [0, 1]."""

    def train(self, seed: int, after_epoch: AfterEpoch) -> None:
        """Train for the task's epochs, handing out each one's seconds; end early where the answer is true."""
        self.start(seed)
        for epoch in range(self.task.epochs):
            self.epochs_done = epoch
            start = time.perf_counter()
            self.epoch()
            if after_epoch(time.perf_counter() - start):
                break
