"""Case 1's verdict on planted rank profiles."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saerepgeo_lib.studies import case1_verdict

CEILING = 100


def profiles(n_seeds=7, **by_label):
    """Ranks that go from `clean` up by a relative range that differs a little between seeds."""
    return pd.DataFrame(
        {"label": label.replace("_", " "), "mode": 3, "level": level, "seed": seed,
         "rule": "relative", "rank": clean * (1 + level * spread * (1 + 0.01 * seed))}
        for label, (clean, spread) in by_label.items()
        for seed in range(n_seeds)
        for level in (0.0, 1.0)
    )  # fmt: skip


def judged(table, sparse=("SAE",)):
    ceilings = dict.fromkeys(table["label"], CEILING)
    claims = case1_verdict.judge(
        table, ceilings, concept="c", rule="relative", mode=3, sparse=sparse
    )
    assert {(c.concept, c.tokens) for c in claims} == {("c", "content")}
    cases = [(c.id.removeprefix("case1-"), c.autoencoder, c.against) for c in claims]
    return {case: c.verdict for case, c in zip(cases, claims, strict=True)}, claims


def test_the_verdict_follows_from_the_numbers():
    untested = "cannot be tested here"
    for sae, null, n_seeds, beyond, overall in (
        ((50, 0.5), (50, 0.1), 7, "holds", "holds"),
        ((50, 0.5), (50, 0.9), 7, "does not hold", "does not hold"),
        ((50, 0.01), (50, 0.0), 7, "holds", "does not hold"),  # below 5 %: it does not vary
        ((50, 0.5), (100, 0.0), 7, untested, untested),
        ((90, 0.1), (20, 3.0), 7, "does not hold", "does not hold"),
        ((50, 0.5), (50, 0.1), 6, untested, untested),
    ):
        verdicts, claims = judged(profiles(n_seeds, SAE=sae, residual=null))
        assert verdicts["beyond-nulls", "SAE", "residual"] == beyond
        assert claims[-1].verdict == overall
        seeds = 1 + 0.01 * np.arange(n_seeds)
        assert claims[-1].value == pytest.approx((sae[1] - null[1]) * seeds.mean())


def test_an_sae_is_judged_by_its_own_nulls_and_in_part_where_some_cannot_be_tested():
    table = profiles(
        SAE=(50, 0.5), other=(50, 0.6), residual=(50, 0.1), permuted_SAE=(100, 0.0),
        permuted_other=(100, 0.0), random_SAE=(50, 0.2), random_other=(50, 0.2),
    )  # fmt: skip
    verdicts, claims = judged(table, sparse=("SAE", "other"))
    expected = {("stratified", "SAE", "random SAE"): "holds in part"}  # the weakest difference
    for sae in ("SAE", "other"):
        expected |= {("rank-varies", sae, ""): "holds", ("beyond-nulls", sae, "residual"): "holds",
                     ("beyond-nulls", sae, f"permuted {sae}"): "cannot be tested here",
                     ("beyond-nulls", sae, f"random {sae}"): "holds"}  # fmt: skip
    assert verdicts == expected
    text = case1_verdict.rank_verdict_text(claims)
    assert "**c: holds in part.** Weakest difference, SAE minus random SAE: +0.3" in text
    assert "n = 7 seeds" in text
    for null in ("the residual", "its permuted latents", "its random encoder"):
        assert f"**Against {null}** the SAE" in text
    entity = [replace(claim, tokens="entity") for claim in claims]
    assert "**c (entity): holds in part.**" in case1_verdict.rank_verdict_text(entity)
