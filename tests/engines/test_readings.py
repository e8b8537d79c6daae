"""Numbers are handed on in order: at once, or where they wait as they were when they were asked for."""

import pytest
import torch

from mlp_lightning.engines.readings import Readings


def test_a_processors_numbers_are_read_at_once():
    readings, found = Readings(waits=False), []
    readings.ask(torch.tensor([1.0, 2.0]), found.append)
    assert found == [[1.0, 2.0]]
    assert len(readings) == 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_numbers_that_wait_are_read_in_order_as_they_were(device):
    readings, found = Readings(waits=True), []
    numbers = torch.tensor([1.0, 2.0], device=device)
    for name in ("first", "second", "third"):
        readings.ask(numbers, lambda values, name=name: found.append((name, values)))
        numbers += 1
    assert (found, len(readings)) == ([], 3)
    readings.read(2)
    assert found == [("first", [1.0, 2.0]), ("second", [2.0, 3.0])]
    readings.read()
    assert found[2:] == [("third", [3.0, 4.0])]
    assert len(readings) == 0


def test_what_fails_once_is_not_done_again():
    readings, found = Readings(waits=True), []

    def fail(values):
        raise ValueError("once")

    readings.ask(torch.zeros(1), fail)
    readings.ask(torch.ones(1), found.append)
    with pytest.raises(ValueError, match="once"):
        readings.read()
    readings.read()
    assert found == [[1.0]]
