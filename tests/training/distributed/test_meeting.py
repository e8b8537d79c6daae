"""Processes that meet: all of them, late ones, none, and signals in between."""

import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from mlp_lightning.errors import UserError
from mlp_lightning.training.distributed import meeting
from mlp_lightning.training.distributed.meeting import meet


@pytest.fixture
def port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]], ids=["first first", "first last"])
def test_all_share_a_store(port, order):
    def come(rank):
        store = meet("127.0.0.1", port, rank, 3, timedelta(seconds=60), print)
        store.set(f"of {rank}", str(rank))
        # The first process's store is the one that serves: it lives until all have read.
        return store, [store.get(f"of {k}") for k in range(3)]

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(come, order))
    assert [values for _, values in found] == [[b"0", b"1", b"2"]] * 3


@pytest.mark.parametrize(("rank", "missing"), [(0, "2 of 3 processes"), (1, "the first process")])
def test_who_is_missing_is_told_once(monkeypatch, port, rank, missing):
    monkeypatch.setattr(meeting, "SECONDS_OF_SILENCE", 0)
    monkeypatch.setattr(meeting, "SECONDS_OF_A_TRY", 0.2)
    told = []
    with pytest.raises(UserError, match=rf"^trainer\.num_nodes: waited 0:00:01 for {missing} at 127\.0\.0\.1:{port}"):
        meet("127.0.0.1", port, rank, 3, timedelta(seconds=1), told.append)
    (line,) = told
    assert line.startswith(f"waiting for {missing} at 127.0.0.1:{port}; start the same command on every node")
    assert all(name in line for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"))


def test_a_signal_is_heard(monkeypatch, port):
    def stop(*args):
        raise InterruptedError

    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        with pytest.raises(InterruptedError):
            meet("127.0.0.1", port, 0, 2, timedelta(seconds=60), print)
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)


def test_a_port_in_use_is_told(port):
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", port))
        sock.listen()
        with pytest.raises(UserError, match=rf"^environment variable MASTER_PORT: port {port} cannot be used"):
            meet("127.0.0.1", port, 0, 2, timedelta(seconds=5), print)
