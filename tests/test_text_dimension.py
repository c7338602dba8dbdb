"""Local dimension of running text: planted tokens, and the answer in words."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.plots.calibration import plot_text_dimension
from saerepgeo_lib.studies.local_dimension import NULLS, dimension_answer, text_dimension
from saerepgeo_lib.studies.texts import running_text
from saerepgeo_lib.synthetic.families import planted


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


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [(("several dimensions", "undecided"), "undecided whether the clusters"),
     (("several dimensions", "several dimensions"), "the clusters themselves differ"),
     (("not estimable", "not estimable"), "too few tokens")],
)  # fmt: skip
def test_the_answer_counts_draws_and_says_what_each_null_leaves(verdicts, words):
    planted_rows = pd.DataFrame({
        "truth": ["several dimensions"] * 2 + ["smooth"] * 3,
        "verdict": ["several dimensions", "undecided"] + ["one dimension"] * 3,
    })  # fmt: skip
    text = pd.DataFrame({"representation": "residual", "null": NULLS, "verdict": verdicts,
                         "value": 0.7, "low": 0.6, "high": 0.8, "n": 84})  # fmt: skip
    answer = dimension_answer(planted_rows, text)
    assert "1 of 2 draws" in answer and "0 of 3 of smooth" in answer and words in answer
