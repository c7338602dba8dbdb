"""A thread a core, for work on many small matrices."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[int]:
    """Torch computes in one thread inside, and rounds the same on any number of cores.

    Yields how many there were before.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n_threads
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread a core, each single-threaded in torch: twice as fast on many small matrices.

    Each is told so itself. A thread that has not yet computed anything else takes all cores for a
    matrix product, and then rounds otherwise than one that has.
    """
    with (
        one_thread() as n_threads,
        ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool
