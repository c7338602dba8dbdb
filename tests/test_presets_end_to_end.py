"""The paper's presets through the three cases, offline; and a token that must not be seen."""

import http.server
import threading
import traceback

import hub
import pytest
from run_page import SMALL, few_days, in_a_file, run_page
from stub_runs import ended, start

from saerepgeo_lib.activations.model_with_saes import load
from saerepgeo_lib.companion.cli import main

pytestmark = pytest.mark.slow
TOKEN = "hf_" + "PlantedTokenThatNobodyMayEverSee"[:30]


def seen_in(folder, *texts):
    """Where the token is to be read: in any file below the folder, or in the texts."""
    files = [p for p in folder.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    return files + [text for text in texts if TOKEN in text]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, for this process and those that it starts; the token is planted."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    return hub.use_cache(tmp_path / "hf", monkeypatch)


@pytest.mark.parametrize("preset", ["gpt2-small", "pythia-70m", "gemma-2-2b"])
def test_a_preset_of_the_paper_runs_all_three_cases(preset, cache, tmp_path, capfd, unchecked):
    hub.put_preset(cache, preset)
    few = in_a_file(few_days(), tmp_path)
    for page, parameters in SMALL.items():
        _, record = run_page(page, tmp_path, preset=preset, **few, **parameters)
        assert record["parameters"]["preset"] == preset and record["claims"]
        assert not seen_in(tmp_path)
    assert not seen_in(tmp_path, *capfd.readouterr())


@pytest.fixture
def gate():
    """A hub that keeps its one gated model shut, else out of order: its address and what it saw."""
    asked = []

    class Gate(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            gated = "gemma-2-2b/" in self.path and "google" in self.path
            self.send_response(401 if gated else 503)
            if gated:
                asked.append(self.headers.get("Authorization"))
                self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


LOADING = """# %% tags=["parameters"]
preset: str = "gemma-2-2b"  # a gated model

# %%
import os

from saerepgeo_lib import UserError, load

token = os.environ.pop("HF_TOKEN")
try:
    load(preset)
except UserError as error:
    assert "huggingface.co/google/gemma-2-2b" in str(error)
os.environ["HF_TOKEN"] = token
load(preset)
"""


def test_a_gated_model_says_where_to_ask_and_shows_no_token(gate, cache, tmp_path, monkeypatch):
    """Without a token, and with one that the hub does not let in."""
    address, asked = gate
    hub.put_preset(cache, "gemma-2-2b")
    for path in (cache / "models--google--gemma-2-2b").rglob("*.*"):
        path.unlink()
    (tmp_path / "loading.py").write_text(LOADING)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    status, text, error = ended(start("run", "loading.py", "-o", "out", cwd=tmp_path))
    assert status == 2, error
    assert "ask for access at https://huggingface.co/google/gemma-2-2b" in error
    assert "HF_TOKEN" in error and "secret" in error and "Traceback" not in error
    assert set(asked) == {None, f"Bearer {TOKEN}"}
    assert not seen_in(tmp_path, text, error) and not any((tmp_path / "out").iterdir())


def test_a_fault_while_loading_shows_no_token(cache, tmp_path):
    hub.put_preset(cache, "gpt2-small")
    (tokenizer,) = cache.rglob("tokenizer.json")
    tokenizer.write_text('{"version": "1.0"}')
    with pytest.raises(Exception) as told:
        load("gpt2-small")
    assert not seen_in(tmp_path, "".join(traceback.format_exception(told.value)))


@pytest.mark.parametrize("given", [("hub_token", TOKEN), ("concept", TOKEN), (TOKEN, "1")])
def test_a_token_among_the_parameters_is_refused_and_not_repeated(given, cache, tmp_path, capsys):
    assert main(["run", "stratified_manifold", "-p", *given, "-o", "out"]) == 2
    told = capsys.readouterr()
    assert "looks like a secret" in told.err and "HF_TOKEN" in told.err
    grid = tmp_path / "grid.toml"
    grid.write_text(f'notebook = "stratified_manifold"\nfixed.{given[0]} = "{given[1]}"\n')
    assert main(["sweep", "grid.toml", "--dry"]) == 2
    again = capsys.readouterr()
    grid.unlink()
    assert "looks like a secret" in again.err and not seen_in(tmp_path, *told, *again)
