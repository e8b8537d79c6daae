"""Work that is done one item ahead, by a thread, while the item before is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def one_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """``map(make, items)``, where the next result is made while the last is used.

    At most two results are alive. The thread ends with the iteration, also one that is broken off. Raises what ``make``
    raises.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        for first in waiting:
            future = pool.submit(make, first)
            break
        else:
            return
        while True:
            made = future.result()
            following = next(waiting, None)
            if following is None:
                yield made
                return
            future = pool.submit(make, following)
            yield made
