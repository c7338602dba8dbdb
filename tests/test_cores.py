import os
import subprocess
import sys

import torch

from saerepgeo_lib.cores import workers

# In a process of its own, since tests beside each other have one thread each: of 5 rows by a slice
# of columns, which two threads of MKL round otherwise.
SCRIPT = """
import torch
from saerepgeo_lib.cores import workers

assert torch.get_num_threads() == 2
generator = torch.Generator().manual_seed(0)
x, weights = (torch.randn(*n, generator=generator) for n in ((5, 384), (384, 3072)))
with workers() as pool:
    assert torch.get_num_threads() == 1
    here = torch.mm(x, weights[:, :1024])
    there = pool.submit(lambda: torch.mm(x, weights[:, :1024])).result()
    assert pool.submit(torch.get_num_threads).result() == 1
assert torch.equal(here, there)
assert torch.get_num_threads() == 2
"""


def test_a_worker_multiplies_as_the_main_thread_does_and_leaves_its_threads_alone():
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_there_is_a_worker_for_each_thread(two_threads):
    with workers() as pool:
        assert pool._max_workers == 2
    assert torch.get_num_threads() == 2
