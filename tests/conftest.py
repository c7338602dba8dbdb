"""Shapes of every annotated function are checked while the tests run.

The process that deals tests to workers reads this file, too: it loads no model library.
"""

import itertools
import os
from contextlib import contextmanager

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers and their kernels share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import config, install_import_hook

install_import_hook("saerepgeo_lib", "checker.check")

import numpy as np
import pytest
from stub_runs import write_stub

HOOK = "blocks.4.hook_out"


@pytest.fixture
def unchecked():
    """As users run the library: shapes are not checked, so its own messages are what they see."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def minilm():
    from saerepgeo_lib.activations import models

    return models.load_model("minilm")


@pytest.fixture(scope="session")
def smollm2():
    """The embedded causal language model: half a gigabyte."""
    from saerepgeo_lib.activations import models

    return models.load_model("smollm2")


@pytest.fixture(scope="session")
def days(minilm):
    """The activations of the days' content tokens."""
    from saerepgeo_lib.activations import prompts
    from saerepgeo_lib.activations.token_activations import read_concept

    return read_concept(minilm, prompts.load_concept("days"), HOOK)


def mixed_directions(n=4000, d=16):
    """Tokens that mix a few of 24 directions, as SAEs expect them; float16, as on disk."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(24, d))
    codes = rng.random((n, 24)) * (rng.random((n, 24)) < 0.1)
    return [(codes @ directions * 4).astype(np.float16)]


def different_weights(a, b):
    """The names of the weights in which two modules differ."""
    other = b.state_dict()
    return [name for name, value in a.state_dict().items() if not value.equal(other[name])]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a notebook that does next to nothing."""
    monkeypatch.setenv("CI", "true")
    write_stub(tmp_path)
    return tmp_path


@pytest.fixture
def small_sae():
    """A TopK SAE with random weights, 8 -> 32, k = 4."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(k=4, d_in=8, d_sae=32))
    torch.nn.init.normal_(sae.W_enc)
    torch.nn.init.normal_(sae.W_dec)
    sae.cfg.metadata.hook_name = HOOK
    return sae


@pytest.fixture(scope="module")
def one_thread():
    """Tests run beside each other: threads that wait for each other's cores are slow."""
    from saerepgeo_lib import cores

    with cores.one_thread():
        yield


@pytest.fixture
def two_threads():
    """As on a machine of two cores, whatever the tests beside this one leave."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def interrupt_at():
    """`with interrupt_at(n_batches)`: a user stops the training inside at that batch."""
    from saerepgeo_lib.studies import training

    real = training.shuffled_batches

    @contextmanager
    def interrupt(n_batches):
        def interrupted(*given, **options):
            yield from itertools.islice(real(*given, **options), n_batches - 1)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training, "shuffled_batches", interrupted)
            yield

    return interrupt
