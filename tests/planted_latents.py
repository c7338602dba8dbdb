"""Clustered latents with known answers for Case 3's tests."""

import numpy as np
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from saerepgeo_lib.steering.latents import ClusteredLatents, Decoder


def planted(x, z, weight, bias, labels):
    """Clustered latents from arrays."""
    x, z, weight, bias, labels = map(torch.from_numpy, (x, z, weight, bias, labels))
    decoder = Decoder(weight, bias, weight.sum(0), len(weight))
    return ClusteredLatents(x, z, torch.arange(len(weight)), decoder, labels)


def random_latents(k=4, per=6, d=5, width=12, loose=3, seed=0, nonnegative=True):
    """Random latents and decoder; `loose` tokens without a cluster."""
    rng = np.random.default_rng(seed)
    n = k * per + loose
    labels = np.concatenate([np.repeat(np.arange(k), per), np.full(loose, -1)])
    means = 2 * np.abs(rng.normal(size=(k + 1, width))) * (rng.random((k + 1, width)) < 0.5)
    z = means[labels] * (1 + 0.3 * rng.normal(size=(n, width)))
    z = np.abs(z) if nonnegative else z + rng.normal(size=z.shape)
    weight, bias = rng.normal(size=(width, d)), rng.normal(size=d)
    x = z @ weight * 1.2 + bias + 0.5 * rng.normal(size=(n, d))
    return planted(x + rng.normal(size=(k + 1, d))[labels], z, weight, bias, labels)


def simplex_latents(k=5, per=8, shrinkage=0.7, overcomplete=False, seed=0):
    """Clusters on a regular simplex before an orthonormal decoder; the residual's simplex is
    1 / shrinkage times as large, with noise inside the clusters that no steering removes.

    With `overcomplete`, as many further features again that only repeat the decoder's directions.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(k), per)
    centroids = 3 * np.eye(k) + 1
    inside = rng.normal(size=(k, per, k)) * 0.2
    inside -= inside.mean(axis=1, keepdims=True)
    z = centroids[labels]
    weight = np.linalg.qr(rng.normal(size=(k, k)))[0]
    mean = centroids.mean(axis=0)
    target = mean + (centroids - mean) / shrinkage
    x = (target[labels] + inside.reshape(-1, k)) @ weight
    if overcomplete:
        weight, z = np.concatenate([weight, weight]), np.concatenate([z, 0 * z], axis=1)
    return planted(x, z, weight, np.zeros(k), labels)


def double_sae(latents):
    """A SAELens SAE in double precision with the same decoder."""
    width, d = latents.decoder.weight.shape
    sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=width, dtype="float64"))
    with torch.no_grad():
        sae.W_dec.copy_(latents.decoder.weight)
        sae.b_dec.copy_(latents.decoder.bias)
    return sae
