"""The paper's presets through the three cases, offline; and a token that must not be seen."""

import http.server
import json
import os
import subprocess
import sys
import threading

import hub
import pytest

from saerepgeo_lib import prompts
from saerepgeo_lib.files import data_dir, read_json

pytestmark = pytest.mark.slow
TOKEN = "hf_" + "PlantedTokenThatNobodyMayEverSee"[:30]
CASES = {
    "stratified_manifold": ["-p", "noise_levels", "[0, 1]", "-p", "n_seeds", "2",
                            "-p", "max_slots", "1"],
    "representation_structure": ["-p", "n_umap_concepts", "0", "-p", "n_groups", "3",
                                 "-p", "n_random", "1", "-p", "min_cluster_size", "4"],
    "intervention": ["-p", "n_steps", "4", "-p", "n_walks", "1", "-p", "n_groups", "3",
                     "-p", "n_bootstrap", "40", "-p", "min_cluster_size", "4"],
}  # fmt: skip


def command(tmp_path, *arguments, **environment):
    """`saerepgeo ARGUMENTS` with the hub cache in tmp_path, the token planted, and no network."""
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "CI": "true"}
    env |= {"HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "saerepgeo_lib.cli", *arguments],
        env={k: v for k, v in env.items() if v}, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip


def seen_in(folder, *texts):
    """Where the token is to be read: in any file below the folder, or in the texts."""
    files = [p for p in folder.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    return files + [text for text in texts if TOKEN in text]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Four frames of the days, so that 20 blocks of a small model take seconds."""
    days = read_json(data_dir() / "concept_prompts.json")["days"]
    frames = list(dict.fromkeys(p["frame"] for p in days["prompts"]))[:4]
    days["prompts"] = [p for p in days["prompts"] if p["frame"] in frames]
    path = tmp_path_factory.mktemp("prompts") / "few.json"
    path.write_text(json.dumps({"days": days}))
    assert len(prompts.load_concept("days", path).prompts) == 28
    return ["-p", "concept", "days", "-p", "prompts_file", str(path)]


@pytest.mark.parametrize("preset", ["gpt2-small", "pythia-70m", "gemma-2-2b"])
def test_a_preset_of_the_paper_runs_all_three_cases(preset, few, tmp_path):
    hub.put_preset(tmp_path / "hf" / "hub", preset)
    for notebook, parameters in CASES.items():
        done = command(
            tmp_path, "run", notebook, "-p", "preset", preset, *few, *parameters, "-o", "out"
        )
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / "out").glob(f"{notebook}-*/*.record.json")
        record = read_json(path)
        assert record["parameters"]["preset"] == preset and record["claims"]
        assert not seen_in(tmp_path, done.stdout, done.stderr)


class Gate(http.server.BaseHTTPRequestHandler):
    """A hub that keeps its one gated model shut, and is otherwise out of order."""

    asked: list[str | None]

    def do_HEAD(self):
        gated = "gemma-2-2b/" in self.path and "google" in self.path
        if gated:
            self.asked.append(self.headers.get("Authorization"))
        self.send_response(401 if gated else 503)
        if gated:
            self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


@pytest.fixture
def gate():
    """The address of such a hub, and what it was shown."""
    handler = type("Handler", (Gate,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()


def test_a_gated_model_says_where_to_ask_and_shows_no_token(gate, few, tmp_path):
    address, asked = gate
    hub.put_preset(tmp_path / "hf" / "hub", "gemma-2-2b")
    for path in (tmp_path / "hf" / "hub" / "models--google--gemma-2-2b").rglob("*.*"):
        path.unlink()
    arguments = ["run", "stratified_manifold", "-p", "preset", "gemma-2-2b", *few, "-o", "out"]
    for token in (TOKEN, ""):
        asked.clear()
        done = command(tmp_path, *arguments, HF_ENDPOINT=address, HF_HUB_OFFLINE="", HF_TOKEN=token)
        assert done.returncode == 2, done.stderr
        assert "ask for access at https://huggingface.co/google/gemma-2-2b" in done.stderr
        assert "HF_TOKEN" in done.stderr and "secret" in done.stderr
        assert set(asked) == {f"Bearer {TOKEN}" if token else None}
        assert not seen_in(tmp_path, done.stdout, done.stderr)


def test_a_fault_in_a_notebook_shows_no_token(few, tmp_path):
    hub.put_preset(tmp_path / "hf" / "hub", "gpt2-small")
    (tokenizer,) = (tmp_path / "hf").rglob("tokenizer.json")
    tokenizer.write_text('{"version": "1.0"}')
    done = command(
        tmp_path, "run", "stratified_manifold", "-p", "preset", "gpt2-small", *few, "-o", "out"
    )
    assert done.returncode in (1, 2) and done.stderr
    assert not seen_in(tmp_path, done.stdout, done.stderr)


def test_a_token_among_the_parameters_is_refused(tmp_path):
    for name in ("hub_token", "concept"):
        done = command(tmp_path, "run", "stratified_manifold", "-p", name, TOKEN, "-o", "out")
        assert done.returncode == 2 and "HF_TOKEN" in done.stderr
        assert not seen_in(tmp_path, done.stdout, done.stderr)


def test_a_token_given_as_a_name_is_not_repeated(tmp_path):
    done = command(tmp_path, "run", "stratified_manifold", "-p", TOKEN, "1", "-o", "out")
    assert done.returncode == 2 and "looks like a secret" in done.stderr
    assert not seen_in(tmp_path, done.stdout, done.stderr)
    (tmp_path / "grid.yml").write_text(f"notebook: stratified_manifold\nfixed: {{{TOKEN}: 1}}\n")
    done = command(tmp_path, "sweep", "grid.yml", "--dry")
    assert done.returncode == 2 and "looks like a secret" in done.stderr
    assert TOKEN not in done.stderr + done.stdout
