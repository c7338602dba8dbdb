import torch

from saerepgeo_lib.cores import workers


def test_a_worker_multiplies_as_the_main_thread_does_and_leaves_its_threads_alone():
    """Of 5 rows by a slice of columns: two threads of MKL round such a product otherwise."""
    generator = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(*n, generator=generator) for n in ((5, 384), (384, 3072)))
    before = torch.get_num_threads()
    with workers() as pool:
        assert torch.get_num_threads() == 1
        here = torch.mm(x, weights[:, :1024])
        there = pool.submit(lambda: torch.mm(x, weights[:, :1024])).result()
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.equal(here, there)
    assert torch.get_num_threads() == before
