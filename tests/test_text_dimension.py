"""Local dimension of planted tokens, and the tables of the study of planted families."""

from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.studies.local_dimension import (
    NULLS,
    planted_rates,
    planted_table,
    plot_planted_excess,
    plot_text_dimension,
    text_dimension,
)
from saerepgeo_lib.studies.study import read_study, study_file
from saerepgeo_lib.studies.texts import running_text
from saerepgeo_lib.synthetic.families import OTHERS, OURS, planted


def tokens(points, types, monkeypatch):
    """Tokens of given types, of a model without autoencoders."""
    monkeypatch.setattr(TokenActivations, "words", property(lambda a: types[a.prompt.numpy()]))
    rows = torch.arange(len(points))
    return TokenActivations(
        torch.from_numpy(points).float(), rows, rows * 0, rows < 0,
        source=SimpleNamespace(saes={}, sparse=[]), massive="keep",
    )  # fmt: skip


def test_text_of_one_piece_and_text_of_strata_are_told_apart(monkeypatch):
    n = 1200
    types = np.array([f"Ġword{i}" for i in np.random.default_rng(0).integers(0, 30, n)])
    found = {
        family: text_dimension(
            tokens(planted(family, n, random_state=0).points, types, monkeypatch)
        )
        for family in ("Gaussian 4", "flats 1, 2, 4, 8")
    }
    for table in found.values():
        assert list(table["null"]) == list(NULLS) and set(table["representation"]) == {"residual"}
        assert table.iloc[0]["no manifold, null"] < 0.1
        assert isinstance(plot_text_dimension(table), Figure)
    verdicts = {family: table["verdict"].iloc[0] for family, table in found.items()}
    assert verdicts["flats 1, 2, 4, 8"] == "several dimensions" != verdicts["Gaussian 4"]
    small = tokens(planted("sphere", 100, random_state=0).points, types[:100], monkeypatch)
    assert set(text_dimension(small)["verdict"]) == {"not estimable"}


def test_running_text_is_distinct_texts_that_come_with_the_book():
    text = running_text(50)
    assert len(text.prompts) == len({p.text for p in text.prompts}) == 50
    assert running_text().prompts[:50] == text.prompts


def entry(family, excess, verdict, *, stratified=False, singular=False):
    point = {"family": family, "space": "raw", "n": 100, "noise": 0.0, "draw": 0}
    result = {"family": "ours", "stratified": stratified, "singular": singular, "excess": excess,
              "verdict": verdict, "rejected": {"manifold": 0.1, "fibre bundle": 0.0}}  # fmt: skip
    return {"point": point, "result": result}


def test_rates_count_draws_and_the_auc_families():
    table = planted_table([
        entry("line", [0.0, -0.1, 0.1], "one dimension"),
        entry("line", [0.3, 0.25, 0.4], "several dimensions"),
        entry("sphere", [0.1, 0.0, 0.2], "undecided"),
        entry("sphere", None, "not estimable"),
        entry("flats", [0.5, 0.4, 0.6], "several dimensions", stratified=True),
        entry("lollipop", [0.4, 0.1, 0.6], "undecided", stratified=True),
        entry("cone", [0.0, -0.1, 0.1], "one dimension", singular=True),
    ])  # fmt: skip
    rates = planted_rates(table).set_index("truth")
    assert rates.loc["smooth", "several dimensions"] == 0.25 and rates.loc["smooth", "draws"] == 4
    assert rates.loc["several dimensions", "several dimensions"] == 0.5
    assert rates.loc["several dimensions", "AUC"] == 1 > rates.loc["several dimensions", "low"]
    assert np.isnan(rates.loc["singular", "AUC"])
    assert isinstance(plot_planted_excess(table), Axes)


def test_the_shipped_study_has_every_family_and_what_the_page_says_of_it_is_so():
    judged = planted_table(read_study(study_file("stratification"))["points"])
    assert set(judged["family"]) == {*OURS, *OTHERS}
    largest = judged[(judged["n"] == judged["n"].max()) & (judged["noise"] == 0)]
    raw = largest[largest["space"] == "raw"]
    is_called = raw.groupby("truth")["verdict"].agg(lambda v: (v == "several dimensions").mean())
    assert is_called["smooth"] <= 0.05 and is_called["singular"] <= 0.05
    assert is_called["several dimensions"] >= 0.8
    noisy = judged[(judged["noise"] > 0) & (judged["family"] == "uneven plane")]
    assert (noisy["verdict"] == "several dimensions").any()
