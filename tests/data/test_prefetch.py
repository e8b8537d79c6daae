import threading

import pytest

from mlp_lightning.data.prefetch import one_ahead


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_it_is_map(n):
    assert list(one_ahead(lambda k: k * k, range(n))) == [k * k for k in range(n)]


def test_the_next_is_made_while_the_last_is_used_and_no_more():
    made, second = [], threading.Event()

    def make(k):
        made.append(k)
        if k == 1:
            second.set()
        return k

    results = one_ahead(make, range(9))
    assert next(results) == 0
    assert second.wait(10)
    assert made == [0, 1]
    results.close()
    assert made == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_errors_come_where_their_result_would():
    results = one_ahead(lambda k: 1 // (1 - k), range(3))
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
