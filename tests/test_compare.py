"""Many runs side by side, and the page that shows them."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from run_page import run_page

from saerepgeo_lib.companion import compare
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.plots import forests

ROWS = [  # run, preset, id, concept, autoencoder, statistic, value, verdict
    ("a", "one", "case3-shrinks", "months", "TopK SAE", "rho* - 1", 0.1, "holds"),
    ("a", "one", "case3-shrinks", "months", "dense AE", "rho* - 1", -0.1, "does not hold"),
    ("a", "one", "case1-rank-varies", "", "", "range", 2.0, "holds"),
    ("b", "two", "case3-shrinks", "days", "TopK SAE", "rho* - 1", None, "cannot be tested here"),
    ("b", "two", "case3-shrinks", "days", "L1 SAE", "other", 0.3, "holds"),
]


@pytest.fixture
def path(tmp_path):
    names = ["run", "parameter preset", "id", "concept", "autoencoder", "statistic", "value",
             "verdict"]  # fmt: skip
    table = pd.DataFrame(ROWS, columns=names)
    table["low"] = table["high"] = table["value"]
    table["parameter concept"] = "months,days"
    table = table.assign(
        notebook="intervention", p=0.5, n=3, tokens="content", against="", seconds=1.0,
        condition=["", "", "error own", "", ""], dose=float("nan"),
        written=pd.Timestamp("2026-11-29", tz="UTC"),
    )  # fmt: skip
    table.to_parquet(tmp_path / "claims.parquet")
    return tmp_path / "claims.parquet"


def test_concept_and_case_stand_apart(path):
    table = compare.read_claims(path)
    assert list(table["concept"]) == ["months", "months", "all", "days", "days"]
    topk, *others = "TopK SAE", "dense AE", "all together (error own)"
    assert list(table["case"]) == [topk, *others, topk, "L1 SAE"]
    assert list(table["preset"]) == ["one", "one", "one", "two", "two"]
    assert "parameter concept" in table.columns  # the sweep's, beside the case's
    # a finding without a concept is on the run's only one
    table = pd.read_parquet(path).assign(concept=["", "", "", "days", ""], against="residual")
    table["parameter concept"] = ["months", "months,days", None, "months, days", ""]
    table.to_parquet(path)
    found = compare.read_claims(path)
    assert list(found["concept"]) == ["months", "all", "all", "days", "all"]
    assert found["case"][3] == "TopK SAE minus residual"


def test_verdicts_are_counted_by_claim_and_without_the_parameter_compared_by_too(path):
    table = compare.read_claims(path)
    counts = compare.verdict_counts(table, "preset")
    assert list(counts["claim"]) == ["case1-rank-varies", "case3-shrinks", "case3-shrinks"]
    assert counts.iloc[1][list(compare.VERDICTS)].tolist() == [1, 0, 1, 0]
    assert counts.iloc[2][["holds", "cannot be tested here", "n"]].tolist() == [1, 1, 2]
    table.loc[table["run"] == "b", "preset"] = None
    counts = compare.verdict_counts(compare.compared_by(table, "preset"), "preset")
    assert counts.groupby("preset")["n"].sum().to_dict() == {"one": 3, compare.ABSENT: 2}
    many = table.assign(seed=range(len(table)))
    with pytest.raises(UserError, match="has 7 values; compare at most 6"):
        compare.compared_by(pd.concat([many, many.iloc[:2]]).assign(seed=range(7)), "seed")


def test_figures_hold_every_verdict_and_value_and_a_row_for_a_concepts_entities(path):
    table = compare.read_claims(path)
    found = compare.findings(table, "case3-shrinks")
    assert list(found["value"]) == [0.1, -0.1]  # of one statistic
    bars = forests.plot_verdicts(compare.verdict_counts(table, "preset"), "preset")
    assert [ax.get_title() for ax in bars.axes] == ["one", "two"]
    widths = [patch.get_width() for patch in bars.axes[0].patches]
    assert sum(widths) == pytest.approx(2)  # two claims, all shares
    rows = found.assign(tokens=["content", "entity"])
    (ax,) = forests.plot_findings(rows, "preset").axes
    assert [x for line in ax.get_lines()[:-1] for x in line.get_xdata()] == [0.1, -0.1]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["months", "months (entity)"]


def test_what_is_no_table_of_claims_is_refused(tmp_path, path):
    (tmp_path / "no.parquet").write_text("no")
    pd.DataFrame({"run": ["a"]}).to_parquet(tmp_path / "other.parquet")
    for name, words in (
        ("no", r"no\.parquet as Parquet.*'saerepgeo collect'"), ("nothing", "cannot read"),
        ("other", r"no columns \['notebook'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            compare.read_claims(tmp_path / f"{name}.parquet")
    table = compare.read_claims(path)
    with pytest.raises(UserError, match="did you mean 'preset'"):
        compare.compared_by(table, "presett")
    with pytest.raises(UserError, match="did you mean 'case3-shrinks'"):
        compare.findings(table, "case3-shrink")


def test_the_page_shows_a_table_of_ones_own(path, tmp_path):
    given = {"table": str(path), "claim": "case3-shrinks"}
    shown, record = run_page("compare_runs", tmp_path, **given)
    assert record["parameters"] == given | {"by": "preset"}
    assert record["tables"]["close_up"]["value"] == [0.1, -0.1]
    assert sum(isinstance(value, Figure) for value in shown) == 2
