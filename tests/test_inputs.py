"""What files tell of a run's parameters is told before a kernel starts, and nothing is written."""

import json
import shutil
import subprocess
import sys

import pytest
from refusals import refused
from stub_runs import toml_file

from saerepgeo_lib.companion.grid import read_grid
from saerepgeo_lib.companion.inputs import TOGETHER, check_inputs
from saerepgeo_lib.companion.notebooks import NOTEBOOK_DIR, read_parameters
from saerepgeo_lib.files import data_dir

CASE1 = "stratified_manifold"
WRONG = [  # page, parameters, words
    (CASE1, {"preset": "minilmm"}, "did you mean 'minilm'"),
    (CASE1, {"preset": "minilm-l4-topk"}, "unknown preset"),
    (CASE1, {"preset": "empty"}, "no sae_weights.safetensors in empty"),
    (CASE1, {"preset": "sae"}, "cannot load the SAE in sae: .* k"),
    (CASE1, {"preset": "changed"}, "is not what its card describes"),
    (CASE1, {"preset": "gpt2-smal:x"}, "unknown release of SAELens 'gpt2-smal'; did you mean"),
    (CASE1, {"preset": "gpt2-small-res-jb:x"}, "unknown SAE of gpt2-small-res-jb 'x'; valid"),
    (CASE1, {"hook": "blocks.1.attn.hook_z"}, "hook"),
    (CASE1, {"model_name": "empty"}, "no config.json in empty"),
    ("intervention", {"model_name": "half"}, "no weights .* in half"),
    ("intervention", {"model_name": "./none"}, "no folder './none'"),
    ("differences", {"concept": "dayz"}, "unknown concept 'dayz'; did you mean 'days'"),
    (CASE1, {"concept": "days,tools", "prompts_file": "tools.json"}, "unknown concept 'days'"),
    (CASE1, {"concept": "tools,tools"}, "concept must be one name, or several different ones"),
    (CASE1, {"concept": "tools", "prompts_file": "tools.json", "positions": "entity"},
     "those of 'tools' carry none"),
    ("representation_structure", {"prompts_file": "none.json"}, "no such file: none.json"),
    ("representation_structure", {"prompts_file": "broken.json"}, "broken.json is not JSON"),
    ("rank_rule_ablation", {"concept": "colour"}, "did you mean 'color'"),
    ("compare_runs", {"table": "none.parquet"}, "cannot read none.parquet as Parquet"),
    ("compare_runs", {"table": "tools.json"}, "cannot read tools.json as Parquet"),
    ("compare_runs", {"by": "presett"}, "did you mean 'preset'"),
    ("compare_runs", {"claim": "case1-rank-vary"}, "did you mean 'case1-rank-varies'"),
    ("beyond_language", {"weights": "none"}, "no such file: none/card.json"),
    ("beyond_language", {"weights": "vit"}, "no sae_weights.safetensors in vit/digits-topk"),
    ("what_it_costs", {"measured": "tools.json"}, "holds no tables of the benchmarks"),
    ("separability_training", {"results": "none.json"}, "no such file: none.json"),
    ("sparse_against_dense", {"results": "tools.json"}, "has no results of a study"),
    ("trained_again", {"results": "tools.json"}, "has no results of a study"),
    (CASE1, {"n_seeds": 1}, "n_seeds must be at least 2"),
    ("calibration", {"null_draws": 1}, "null_draws must be at least 2"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with everything that the parameters above name; where the process is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools.json").write_text('{"tools": ["A saw.", "A hammer."]}')
    (tmp_path / "broken.json").write_text('{"tools": ["A saw."')
    for name in ("empty", "half"):
        (tmp_path / name).mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    for name in ("sae", "changed"):
        shutil.copytree(data_dir() / "saes" / "minilm-l4-topk", name)
    shutil.copytree(data_dir() / "vision", "vit")
    (tmp_path / "vit" / "digits-topk" / "sae_weights.safetensors").unlink()
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    del cfg["k"]
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(cfg))
    with (tmp_path / "changed" / "sae_weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    return tmp_path


def values(page, **given):
    return {n: p.default for n, p in read_parameters(NOTEBOOK_DIR / f"{page}.py").items()} | given


@pytest.mark.parametrize(("page", "given", "words"), WRONG)
def test_wrong_inputs_are_refused_from_their_files(page, given, words, folder):
    refused(words, check_inputs, page, values(page, **given))


def test_the_defaults_of_every_page_pass_and_other_notebooks_names_mean_what_they_like(folder):
    pages = {path.stem for path in NOTEBOOK_DIR.glob("*.py")}
    for page in pages:
        check_inputs(page, values(page))
    assert set().union(*map(values, pages)) >= TOGETHER
    check_inputs("own", {"preset": "x", "concept": "y", "table": "z", "results": "w"})


ASK = """
import sys
from saerepgeo_lib.companion.cli import main
for arguments in {commands}:
    assert main(arguments) == 2, arguments
assert not {{"torch", "sae_lens", "transformers", "transformer_lens", "sklearn"}} & set(sys.modules)
"""


def test_the_command_line_tells_without_a_kernel_and_without_heavy_imports(folder):
    before = sorted(folder.rglob("*"))
    commands = [
        ["run", page, *(word for name, value in given.items() for word in ("-p", name, str(value)))]
        for page, given, _ in WRONG
    ]
    ask = [sys.executable, "-c", ASK.format(commands=commands)]
    told = subprocess.run(ask, capture_output=True, text=True, check=False)
    lines = told.stderr.splitlines()
    assert told.returncode == 0 and len(lines) == len(WRONG), told.stderr
    assert all(line.startswith("saerepgeo: ") for line in lines)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("grid", "words"),
    [({"grid": {"concept": ["days", "dayz"], "seed": [0, 1]}}, "'concept': 'dayz'.*did you mean"),
     ({"grid": {"n_seeds": [2, 1]}}, "'n_seeds': 1.*at least 2"),
     ({"fixed": {"prompts_file": "tools.json"}, "grid": {"concept": ["tools", "days"]}},
      "'days'.*unknown concept"),
     ({"runs": [{"preset": "minilm"}, {"preset": "empty"}]}, "'empty'.*no sae_weights"),
     ({"runs": [{"concept": "tools", "prompts_file": "tools.json"},
                {"positions": "entity"}], "grid": {"concept": ["tools"]}}, "stands in"),
     ({"runs": [{"prompts_file": "tools.json"}], "grid": {"positions": ["content", "entity"]},
       "fixed": {"concept": "tools"}}, "'entity'.*carry none")],
)  # fmt: skip
def test_a_grid_with_a_wrong_point_is_refused_as_a_whole(grid, words, folder):
    path = folder / "grid.toml"
    path.write_text(toml_file({"notebook": CASE1, **grid}))
    refused(f"grid.toml: .*{words}", read_grid, path)


def test_a_good_grid_passes(folder):
    path = folder / "grid.toml"
    grid = {
        "concept": ["days", "months"],
        "seed": list(range(50)),
        "noise_levels": [[0, 1], [0, 2]],
    }
    path.write_text(toml_file({"notebook": [CASE1, "intervention"], "grid": grid}))
    assert read_grid(path).n_runs == 200 + 100
