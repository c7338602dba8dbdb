"""Many runs side by side, and the page that shows them."""

import nbformat
import pandas as pd
import pytest

from saerepgeo_lib import compare, plots_compare
from saerepgeo_lib.cli import main
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json

ROWS = [  # run, preset, id, subject, statistic, value, verdict
    ("a", "one", "case3-shrinks", "months: TopK SAE", "rho* - 1", 0.1, "holds"),
    ("a", "one", "case3-shrinks", "months: dense AE", "rho* - 1", -0.1, "does not hold"),
    ("a", "one", "case1-rank-varies", "all: error own", "range", 2.0, "holds"),
    ("b", "two", "case3-shrinks", "days: TopK SAE", "rho* - 1", None, "cannot be tested here"),
    ("b", "two", "case3-shrinks", "days: L1 SAE", "other", 0.3, "holds"),
]


@pytest.fixture
def path(tmp_path):
    names = ["run", "parameter preset", "id", "subject", "statistic", "value", "verdict"]
    table = pd.DataFrame(ROWS, columns=names)
    table = table.assign(notebook="intervention", low=table["value"], high=table["value"], n=3)
    table["parameter concept"] = "months,days"
    table["seconds"] = 1.0
    table.to_parquet(tmp_path / "claims.parquet")
    return tmp_path / "claims.parquet"


def test_concept_and_case_come_from_the_subject(path):
    table = compare.read_claims(path)
    assert list(table["concept"]) == ["months", "months", "all", "days", "days"]
    assert list(table["case"]) == ["TopK SAE", "dense AE", "all: error own", "TopK SAE", "L1 SAE"]
    assert list(table["preset"]) == ["one", "one", "one", "two", "two"]
    assert "parameter concept" in table.columns  # the sweep's, beside the case's


def test_a_subject_without_a_concept_is_the_runs_only_one():
    split = compare._split
    assert split("TopK SAE: error own", "months") == ("months", "TopK SAE: error own")
    assert split("L1-ReLU SAE", "months") == ("months", "L1-ReLU SAE")
    assert split("L1-ReLU SAE", "months,days") == ("all", "L1-ReLU SAE")
    assert split("days (entity): TopK SAE minus residual", "months, days") == (
        "days (entity)", "TopK SAE minus residual",
    )  # fmt: skip


def test_runs_without_the_parameter_compared_by_are_counted_too(path):
    table = compare.read_claims(path)
    table.loc[table["run"] == "b", "preset"] = None
    counts = compare.verdict_counts(compare.compared_by(table, "preset"), "preset")
    assert counts.groupby("preset")["n"].sum().to_dict() == {"one": 3, compare.ABSENT: 2}
    many = table.assign(seed=range(len(table)))
    with pytest.raises(UserError, match="has 7 values; compare at most 6"):
        compare.compared_by(pd.concat([many, many.iloc[:2]]).assign(seed=range(7)), "seed")


def test_verdicts_are_counted_by_claim_in_the_ledgers_order(path):
    counts = compare.verdict_counts(compare.read_claims(path), "preset")
    assert list(counts["claim"]) == ["case1-rank-varies", "case3-shrinks", "case3-shrinks"]
    assert counts.iloc[1][list(compare.VERDICTS)].tolist() == [1, 0, 1, 0]
    assert counts.iloc[2][["holds", "cannot be tested here", "n"]].tolist() == [1, 1, 2]


def test_findings_are_those_of_one_statistic(path):
    found = compare.findings(compare.read_claims(path), "case3-shrinks")
    assert list(found["value"]) == [0.1, -0.1]


def test_figures_hold_every_verdict_and_value(path):
    table = compare.read_claims(path)
    bars = plots_compare.plot_verdicts(compare.verdict_counts(table, "preset"), "preset")
    assert [ax.get_title() for ax in bars.axes] == ["one", "two"]
    widths = [patch.get_width() for patch in bars.axes[0].patches]
    assert sum(widths) == pytest.approx(2)  # two claims, all shares
    points = plots_compare.plot_findings(compare.findings(table, "case3-shrinks"), "preset")
    drawn = [x for line in points.axes[0].get_lines()[1:] for x in line.get_xdata()]
    assert drawn == [0.1, -0.1]


def test_what_is_no_table_of_claims_is_refused(tmp_path, path):
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(UserError, match=r"no\.parquet as Parquet.*'saerepgeo collect'"):
        compare.read_claims(tmp_path / "no.parquet")
    with pytest.raises(UserError, match="cannot read"):
        compare.read_claims(tmp_path / "nothing.parquet")
    pd.DataFrame({"run": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"no columns \['notebook'"):
        compare.read_claims(tmp_path / "other.parquet")
    table = compare.read_claims(path)
    with pytest.raises(UserError, match="did you mean 'preset'"):
        compare.compared_by(table, "presett")
    with pytest.raises(UserError, match="did you mean 'case3-shrinks'"):
        compare.findings(table, "case3-shrink")


@pytest.mark.slow
def test_the_page_shows_a_table_of_ones_own(path, tmp_path):
    out = tmp_path / "out"
    given = ["-p", "table", str(path), "-p", "claim", "case3-shrinks"]
    assert main(["run", "compare_runs", *given, "-o", str(out)]) == 0
    (record,) = out.glob("*/*.record.json")
    assert read_json(record)["tables"]["close_up"]["value"] == [0.1, -0.1]
    notebook = nbformat.read(next(out.glob("*/*.ipynb")), as_version=4)
    assert sum("image/png" in str(cell.get("outputs", "")) for cell in notebook.cells) == 2
