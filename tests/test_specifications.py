"""The specification curve: ranges of known spectra, outcomes of planted differences."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from saerepgeo_lib.plots import plot_shares
from saerepgeo_lib.rank.noise_sweep import Sweep
from saerepgeo_lib.studies import specifications as of
from saerepgeo_lib.studies.study import read_study


def swept(rising):
    """A sweep of one representation whose rank at tau .1 is 2 before a level, and 4 from it on."""
    result = Sweep(of.LEVELS, (0,), 1.0, (4, 1), rows=(np.arange(2), np.arange(2, 4)))
    result.make_room("SAE")
    for i, level in enumerate(of.LEVELS):
        result.spectra["SAE", 3][i, 0] = [1, 0.5, *([0.2, 0.2] if level >= rising else [0.01] * 2)]
        result.inputs["SAE"][i, 0] = [[1, 0.5], [1, 0.05 if level < rising else 0.5]]
    return result


@pytest.mark.parametrize(
    ("rising", "expected"), [(0.2, [1, 1, 1]), (1.0, [0, 1, 1]), (10, [0, 0, 1])]
)
def test_the_range_counts_levels_up_to_the_one_that_is_chosen(rising, expected):
    result = swept(rising)
    name = "rank above 0.1 of the largest"
    assert of.ranges(result, "SAE", 3)[name] == expected
    assert of.ranges(result, "SAE", 0)[name] == [e / 2 for e in expected]  # of one input of two
    assert of.ranges(result, "SAE", 3)["rank above 0.3 of the largest"] == [0, 0, 0]


def planted(gaps):
    """Points of nine concepts: the range of SAE "A" minus that of the residual stream is `gaps`
    where the mean token is kept, and its opposite where it is taken away.
    """
    points = []
    for centred in (False, True):
        for tokens in ("content", "entity"):
            for i, gap in enumerate(gaps):
                gap = -gap if centred else gap
                ranks = [*of.RULES, *of.SOFT]
                one = {k: dict.fromkeys(ranks, [1.0] * 3)
                       for k, (t, _) in of.READINGS.items() if t == tokens}  # fmt: skip
                more = {k: dict.fromkeys(ranks, [1.0 + gap] * 3) for k in one}
                point = {"preset": "m", "concept": str(i), "tokens": tokens, "centred": centred}
                result = {"residual": one, "A": more, "random A": more, "permuted A": one}
                points.append({"point": point, "result": result})
    return points


def test_outcomes_follow_the_interval_and_the_choice_that_turns_them_is_named():
    apart = 0.5 + 0.01 * np.arange(9)
    table = of.specification_table(planted(apart))
    n = 2 * 4 * 7 * 3
    assert len(table) == 3 * n and set(table["n"]) == {9}
    residual = table.query("against == 'residual'")
    assert set(residual.query("`mean token` == 'kept'")["outcome"]) == {of.MORE}
    assert set(residual.query("`mean token` == 'taken away'")["outcome"]) == {of.LESS}
    row = residual.iloc[0]
    half = 2.306 * apart.std(ddof=1) / 3
    assert (row["value"], row["high"]) == pytest.approx((apart.mean(), apart.mean() + half), 1e-3)
    same = table.query("against == 'random A'")
    assert set(same["outcome"]) == {of.CONSTANT} and same[["low", "high"]].isna().all(None)
    assert of.most_turning(residual) == ("mean token", "kept", 1.0, "taken away", 0.0)
    text = of.specification_text(table)
    assert f"{n} ways to ask were tried on 1 autoencoders of the book's 1 models" in text
    assert "*Against the residual stream*: more in 50% of the answers, less in 50%" in text
    assert "is the mean token (kept: more in 100%; taken away: in 0%)" in text
    wide = of.specification_table(planted(np.linspace(-2, 2, 9)))
    assert set(wide.query("against == 'residual'")["outcome"]) == {of.OPEN}
    small = of.specification_table(planted(np.linspace(0.03, 0.045, 9)))
    assert set(small.query("against == 'residual'")["outcome"]) == {of.SAME}


def test_the_figure_has_a_bar_for_each_choice_and_shares_add_up():
    parts = of.specification_shares(of.specification_table(planted(0.5 + 0.01 * np.arange(9))))
    assert list(parts) == ["Against the residual stream", "Against a random encoder",
                           "Against its permuted latents"]  # fmt: skip
    shares = next(iter(parts.values()))
    assert len(shares) == 1 + 2 + 4 + 7 + 3 and np.allclose(shares.sum(axis=1), 1)
    assert shares.loc["mean token kept", of.MORE] == 1
    figure = plot_shares(parts)
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert len(widths) == 5 * len(shares) and sum(widths) == pytest.approx(len(shares))


def test_the_shipped_results_are_those_of_todays_study_and_every_choice_is_in_them():
    points = read_study("specifications")["points"]
    assert [point["point"] for point in points] == [asdict(p) for p in of.STUDY.points]
    table = of.specification_table(points)
    assert isinstance(table, pd.DataFrame) and set(table["n"]) == {9}
    assert table.groupby(["preset", "SAE", "against"]).size().eq(2 * 4 * 7 * 3).all()
    assert table["preset"].nunique() == 2 and table["SAE"].nunique() == 2
