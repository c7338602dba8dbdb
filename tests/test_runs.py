"""End to end: Case 1 through the runner and through plain papermill, and users' mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import pytest

from saerepgeo_lib.cli import main
from saerepgeo_lib.files import data_dir, read_json, sha256_file
from saerepgeo_lib.notebooks import NOTEBOOK_DIR

pytestmark = pytest.mark.slow
QUICK = ["-p", "noise_levels", "[0, 1]", "-p", "n_seeds", "2", "-p", "max_slots", "1"]


def run(*arguments, out):
    return main(["run", "stratified_manifold", *arguments, "-o", str(out)])


def record_in(folder):
    (path,) = folder.glob("*/*.record.json")
    return read_json(path)


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps({"tools": [
        "A hammer lay on the bench.", "She borrowed a saw from the shed.",
        "The drill made a terrible noise.", "He sharpened the old chisel.",
    ]}))  # fmt: skip
    return ["-p", "prompts_file", str(path), "-p", "concept", "tools"]


def test_a_plain_concept_file_runs_is_found_again_and_is_the_same_number_for_number(
    plain, tmp_path, capsys
):
    assert run(*QUICK, *plain, out=tmp_path / "a") == 0
    first = record_in(tmp_path / "a")
    assert {"claims", "tables", "numbers", "parameters", "seeds", "run"} <= set(first)
    assert first["parameters"]["concept"] == "tools"
    assert first["numbers"]["tensor_shape"] == {"tools": [4, 1]}
    assert {c["id"] for c in first["claims"]} == {
        "case1-rank-varies", "case1-beyond-nulls", "case1-stratified"}  # fmt: skip
    notebook = next((tmp_path / "a").glob("*/*.ipynb"))

    capsys.readouterr()
    assert run(*QUICK, *plain, out=tmp_path / "a") == 0
    assert "found, not run again" in capsys.readouterr().out

    notebook.write_text("{half")  # a broken result is reported and made again
    assert run(*QUICK, *plain, out=tmp_path / "a") == 0
    again = record_in(tmp_path / "a")
    assert not any(c.get("execution_count") is None for c in nbformat.read(notebook, 4).cells
                   if c.cell_type == "code")  # fmt: skip
    first.pop("run"), again.pop("run")
    assert again == first
    assert not list((tmp_path / "a").glob(".*"))


def test_plain_papermill_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    papermill.execute_notebook(
        str(NOTEBOOK_DIR / "stratified_manifold.ipynb"), "out.ipynb",
        {"concept": "days", "noise_levels": [0, 1], "n_seeds": 2, "max_slots": 1},
        progress_bar=False,
    )  # fmt: skip
    assert (
        read_json(tmp_path / "stratified_manifold.record.json")["parameters"]["concept"] == "days"
    )


COUNTER = """
from transformer_lens.model_bridge import TransformerBridge
real = TransformerBridge.forward
def counted(self, ids, **kwargs):
    with open("passes.txt", "a") as file:
        file.write(f"{len(ids)}\\n")
    return real(self, ids, **kwargs)
TransformerBridge.forward = counted
"""


def test_forward_passes_do_not_depend_on_noise_levels_and_seeds(tmp_path, monkeypatch):
    """Over the whole notebook: its real model counts the prompts that pass through it."""
    import jupytext

    source = jupytext.read(NOTEBOOK_DIR / "stratified_manifold.py")
    source.metadata["kernelspec"] = {"name": "python3", "display_name": "p", "language": "python"}
    source.cells.insert(0, nbformat.v4.new_code_cell(COUNTER))
    nbformat.write(source, tmp_path / "counted.ipynb")
    monkeypatch.chdir(tmp_path)
    counts = []
    for levels, n_seeds in (([0, 1], 2), ([0, 0.1, 0.5, 1, 5], 4)):
        papermill.execute_notebook(
            "counted.ipynb", "out.ipynb", progress_bar=False,
            parameters={"concept": "days", "noise_levels": levels, "n_seeds": n_seeds,
                        "max_slots": 1},
        )  # fmt: skip
        counts.append(sum(map(int, (tmp_path / "passes.txt").read_text().split())))
        (tmp_path / "passes.txt").unlink()
    assert counts == [84, 84]


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A copy of the data folder that a test may damage."""
    folder = tmp_path / "data"
    shutil.copytree(data_dir(), folder)
    monkeypatch.setenv("SAEREPGEO_DATA", str(folder))
    return folder


def refused(capsys, out, *arguments):
    """Exit status 2, a message without traceback, nothing left behind; the message."""
    assert run(*QUICK, *arguments, out=out) == 2
    error = capsys.readouterr().err
    assert "saerepgeo: " in error and "Traceback" not in error
    assert not out.exists() or not list(out.iterdir())
    return error


def test_unknown_preset_and_concept(tmp_path, capsys):
    error = refused(capsys, tmp_path / "o", "-p", "preset", "minilmm")
    assert "unknown preset 'minilmm'; did you mean 'minilm'" in error
    error = refused(capsys, tmp_path / "o", "-p", "concept", "dayz")
    assert "unknown concept 'dayz'; did you mean 'days'" in error


def test_mistyped_parameters(tmp_path, capsys):
    assert "did you mean 'concept'" in refused(capsys, tmp_path / "o", "-p", "concpt", "days")
    assert "is a float" in refused(capsys, tmp_path / "o", "-p", "tau", "small")
    error = refused(capsys, tmp_path / "o", "-p", "api_key", "abc")
    assert "looks like a secret" in error


def test_a_malformed_concept_file(tmp_path, capsys):
    path = tmp_path / "bad.json"
    path.write_text('{"days": ["On Monday.", 5]}')
    arguments = ["-p", "prompts_file", str(path), "-p", "concept", "days"]
    assert "'days', prompt 1: expected a string" in refused(capsys, tmp_path / "o", *arguments)


def test_a_hook_that_does_not_exist(tmp_path, capsys, own_data):
    for cfg in own_data.glob("saes/*/cfg.json"):
        cfg.write_text(cfg.read_text().replace("blocks.4.hook_out", "blocks.4.hook_ouch"))
    error = refused(capsys, tmp_path / "o", "-p", "concept", "days")
    assert "no hook 'blocks.4.hook_ouch'; did you mean" in error


def test_an_sae_of_the_wrong_width(tmp_path, capsys, own_data):
    from sae_lens import TopKSAE, TopKSAEConfig

    folder = own_data / "saes" / "minilm-l4-topk"
    sae = TopKSAE(TopKSAEConfig(k=4, d_in=16, d_sae=32))
    sae.cfg.metadata.hook_name = "blocks.4.hook_out"
    sae.cfg.metadata.prepend_bos = False
    sae.save_model(folder)
    card = read_json(folder / "card.json")
    card["sha256"] = sha256_file(folder / "sae_weights.safetensors")
    (folder / "card.json").write_text(json.dumps(card))
    error = refused(capsys, tmp_path / "o", "-p", "concept", "days")
    assert "reads 16 dimensions" in error and "has 384" in error


def test_corrupted_weights(tmp_path, capsys, own_data):
    weights = own_data / "saes" / "minilm-l4-l1" / "sae_weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 255
    weights.write_bytes(data)
    error = refused(capsys, tmp_path / "o", "-p", "concept", "days")
    assert "not what its card describes" in error and "git checkout" in error


def test_no_network_and_nothing_cached(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert "cannot load SAE" in refused(capsys, tmp_path / "o", "-p", "preset", "gpt2-small")


def test_a_full_disk(tmp_path):
    """A size limit on files stands for the disk: writing the executed notebook fails."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        "from saerepgeo_lib.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "o"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "stratified_manifold", *QUICK, "-p", "concept",
         "days", "-o", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (1, 2), done.stderr
    assert "File too large" in done.stderr or "cannot write" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob("stratified_manifold-*"))


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    out = tmp_path / "o"
    process = subprocess.Popen(
        [sys.executable, "-m", "saerepgeo_lib.cli", "run", "stratified_manifold", "-o", str(out)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "CI": "true"},
        # a job in a shell's background ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not out.exists() or not list(out.iterdir()):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert "interrupted" in error and "Traceback" not in error
    assert not list(out.iterdir())


def test_output_cut_off_by_its_reader_is_no_fault():
    process = subprocess.Popen(
        [sys.executable, "-m", "saerepgeo_lib.cli", "saes"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert ":" in process.stdout.readline()
    process.stdout.close()
    assert "saerepgeo" not in process.stderr.read()
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize(
    ("notebook", "parameters"),
    [
        ("calibration", {"replicates": "2", "null_draws": "30"}),
        ("rank_rule_ablation", {"draws": "2", "n_points": "40", "score": "effective range"}),
        (
            "representation_structure",
            {"concept": "color", "n_umap_concepts": "0", "n_groups": "3", "n_random": "1"},
        ),
        ("sparse_against_dense", {"concept": "days", "n_seeds": "1", "rank_rule": "effective"}),
        ("separability_training", {"live_samples": "10000", "live_strength": "5.0"}),
    ],
)
def test_the_other_pages_run_with_other_parameters(notebook, parameters, tmp_path):
    given = [word for name, value in parameters.items() for word in ("-p", name, value)]
    assert main(["run", notebook, *given, "-o", str(tmp_path)]) == 0
    record = record_in(tmp_path)
    assert all(str(record["parameters"][name]) == value for name, value in parameters.items())
    assert record["tables"]
    if notebook == "rank_rule_ablation":
        assert {c["statistic"] for c in record["claims"]} == {"AUC of the effective range"}


def test_a_page_refuses_parameters_that_it_cannot_use(tmp_path, capsys):
    arguments = ["run", "cone_of_sspd_matrices", "-p", "n", "2", "-o", str(tmp_path)]
    assert main(arguments) == 2
    assert "n must be at least 3" in capsys.readouterr().err


def test_case_2_runs_on_prompts_without_entities(tmp_path):
    path = tmp_path / "plain.json"
    words = ("hammer", "saw", "drill", "chisel", "wrench", "plane", "file", "clamp")
    sentences = [f"{start} {word} {end}" for word in words for start, end in (
        ("Yesterday the old", "fell from the dusty shelf."),
        ("Nobody wanted to lend the heavy", "to the new neighbour."),
        ("A rusty", "was buried below the garden shed."))]  # fmt: skip
    path.write_text(json.dumps({"tools": sentences}))
    arguments = ["-p", "prompts_file", str(path), "-p", "concept", "tools", "-p", "n_random", "1",
                 "-p", "n_umap_concepts", "0", "-p", "min_cluster_size", "5"]  # fmt: skip
    assert main(["run", "representation_structure", *arguments, "-o", str(tmp_path / "out")]) == 0
    record = record_in(tmp_path / "out")
    by_claim = {(c["id"], c["verdict"]) for c in record["claims"]}
    assert ("case2-distinction-up", "cannot be tested here") in by_claim
