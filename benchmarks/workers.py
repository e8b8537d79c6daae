"""Each contender in a process of its own, which waits, idle, for its turn.

So libraries with thread pools of their own do not meet in one process, and all get the same processors: as many as
there are threads, on systems that let a process choose.
"""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from peers import ENTRIES
from peers.peer import Peer, Task, Unavailable


class Epoch(NamedTuple):
    """Seconds of an epoch by the shared clock, and the test accuracy after it."""

    seconds: float
    accuracy: float


class Worker:
    """A contender: ``prepare`` a task once, then ``start`` trainings of it, ask for each ``epoch``, ``stop``.

    Raises:
        Unavailable: by every method, when it cannot take part or do the task.
    """

    def __init__(self, name: str, threads: int) -> None:
        reason = ENTRIES[name].missing()
        if reason is not None:
            raise Unavailable(f"{reason}, skipped")
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, threads), daemon=True)
        self._process.start()
        theirs.close()

    def prepare(self, task: Task) -> Epoch:
        """Set a task, and train an epoch of it without the clock mattering: whatever compiles does so now."""
        self._ask("prepare", task)
        return self.single_epoch(0)

    def single_epoch(self, seed: int) -> Epoch:
        """The first epoch of a training, which goes on no further."""
        self.start(seed)
        epoch = self.epoch()
        self.stop()
        assert epoch is not None
        return epoch

    def start(self, seed: int) -> None:
        """Begin a training from a seed's first weights, which then waits for ``epoch``."""
        self._ask("start", seed)

    def epoch(self) -> Epoch | None:
        """Train for an epoch; None where the training is at its end."""
        answer = self._ask("epoch")
        assert answer is None or isinstance(answer, Epoch)
        return answer

    def stop(self) -> None:
        """End the training, and wait until all is put away."""
        self._ask("stop")

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, *message: object) -> object:
        try:
            self._connection.send(message)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"{self.name}: its process ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def start_workers(names: Sequence[str], threads: int) -> list[Worker]:
    """Those that can take part; the others are named with their reason."""
    workers = []
    for name in names:
        try:
            workers.append(Worker(name, threads))
        except Unavailable as error:
            print(f"{name}: {error}", flush=True)
    return workers


def _serve(connection: Connection, name: str, threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        peer, seed = None, 0
        with contextlib.suppress(EOFError):
            while True:
                command, *arguments = connection.recv()
                answer: object = None
                try:
                    if command == "prepare":
                        peer = _make(name, *arguments)
                    elif command == "start":
                        (seed,) = arguments
                    elif command == "epoch":
                        assert peer is not None
                        _train(peer, seed, connection)
                except Unavailable as error:
                    answer = error
                except EOFError:
                    raise
                except Exception:
                    answer = RuntimeError(f"{name} failed:\n{traceback.format_exc()}")
                connection.send(answer)


def _make(name: str, task: Task) -> Peer:
    from networks import digits

    entry = ENTRIES[name]
    peer: Any = getattr(import_module(f"peers.{entry.module}"), entry.peer)
    return peer(task, digits(task.training_images), **entry.settings)


def _train(peer: Peer, seed: int, connection: Connection) -> None:
    """Answer each ``epoch``; the last question, or ``stop``, is left for the caller to answer."""

    def after_epoch(seconds: float) -> bool:
        connection.send(Epoch(seconds, peer.accuracy()))
        (command,) = connection.recv()
        return command == "stop"

    peer.train(seed, after_epoch)
