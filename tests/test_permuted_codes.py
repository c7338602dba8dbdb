from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from saerepgeo_lib.latents import Codes, encode
from saerepgeo_lib.permuted_codes import _STEP, PermutedCodes, _scrambled, orders

WHOLE = 2**64


def splitmix64(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WHOLE
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WHOLE
    return x ^ x >> 31


def null(codes, seed=0):
    return PermutedCodes(codes, torch.Generator().manual_seed(seed))


def test_each_feature_keeps_its_values_and_its_order_is_its_own(small_sae):
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    codes = encode(small_sae, x)
    permuted = null(codes)
    assert torch.equal(permuted.clean.values.sort(0).values, codes.values.sort(0).values)
    assert not torch.equal(permuted.clean.values, codes.values)
    few = Codes(codes.values[:, 3:5], codes.features[3:5])
    assert torch.equal(permuted(few).values, permuted.clean.values[:, 3:5])
    none = Codes(codes.values[:, :0], codes.features[:0])
    assert permuted(none).values.shape == (len(x), 0)
    assert not torch.equal(null(codes, seed=1).clean.values, permuted.clean.values)


def test_many_features_are_permuted_as_each_alone(monkeypatch):
    codes = Codes(torch.rand(7, 20), torch.arange(100, 120))
    whole = null(codes).clean.values
    monkeypatch.setattr("saerepgeo_lib.permuted_codes._AT_ONCE", 21)  # three features at once
    assert torch.equal(null(codes).clean.values, whole)


def test_no_and_one_token_have_one_order():
    for n in (0, 1):
        codes = Codes(torch.ones(n, 3), torch.arange(3))
        assert torch.equal(null(codes).clean.values, codes.values)


def test_the_numbers_are_those_of_the_published_generator():
    found = _scrambled(1234567 + torch.arange(1, 4) * _STEP).numpy().view(np.uint64)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert found.tolist() == published


def test_orders_are_those_of_splitmix64():
    key, features, n = 2**61 + 12_345, [0, 7, 65_535], 50
    step = 0x9E3779B97F4A7C15
    for order, feature in zip(orders(key, torch.tensor(features), n), features, strict=True):
        own = splitmix64((key + feature * step) % WHOLE)
        drawn = np.array([splitmix64((own + t * step) % WHOLE) for t in range(n)], np.uint64)
        assert order.tolist() == np.argsort(drawn.view(np.int64)).tolist()


@pytest.mark.parametrize("key", [0, 1, 2**62 - 1])
def test_every_order_is_as_likely_as_another(key):
    found = orders(key, torch.arange(24_000), 4)
    kinds = {order: i for i, order in enumerate(permutations(range(4)))}
    counts = np.bincount([kinds[tuple(order)] for order in found.tolist()], minlength=24)
    assert chisquare(counts).pvalue > 1e-3
    first, second = found[:-1, 0], found[1:, 0]  # neighbours are independent
    table = np.bincount((4 * first + second).numpy(), minlength=16)
    assert chisquare(table).pvalue > 1e-3


@pytest.mark.gpu
def test_orders_are_the_same_on_a_gpu():
    features = torch.arange(0, 60_000, 7)
    there = orders(2**61 + 5, features.cuda(), 300).cpu()
    assert torch.equal(there, orders(2**61 + 5, features, 300))
