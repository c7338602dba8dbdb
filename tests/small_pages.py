"""A page of the book made by hand, with known findings."""

import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from saerepgeo_lib.activations.sae_files import Preset
from saerepgeo_lib.companion.pages import Page
from saerepgeo_lib.companion.records import RECORD_VERSION

CLAIMS = {
    "up": {
        "case": "Case 1", "title": "It rises", "tag": "abstract", "statement": "x* rises.",
        "reported": "rises", "page": "small", "section": "Why: a verdict?",
        "interval": "n counts hills", "direction": "above", "note": "Only once.",
    },
    "own": {
        "case": "Case 2", "title": "It is more", "tag": "ours", "statement": "More than a null.",
        "reported": "nothing: asked here", "page": "small", "section": "Verdict",
        "interval": "n counts hills",
    },
}  # fmt: skip
NO_CASE = {"concept": "", "tokens": "", "autoencoder": "", "against": "", "condition": "",
           "dose": None, "reason": ""}  # fmt: skip


def finding(id, statistic, value, low, high, p, n, verdict, **case):
    return {"id": id, "statistic": statistic, "value": value, "low": low, "high": high, "p": p,
            "n": n, "verdict": verdict} | NO_CASE | case  # fmt: skip


def small_record():
    return {
        "version": RECORD_VERSION, "notebook": "small", "seeds": [0], "tables": {},
        "parameters": {"preset": "tiny", "concept": "months,days", "n": 3},
        "claims": [
            finding("up", "slope", 0.12345, -0.5, 1234.5, 0.0004, 12, "holds", concept="months",
                    autoencoder="A"),
            finding("up", "slope", None, None, None, None, 0, "cannot be tested here",
                    concept="days", autoencoder="A", against="B|C"),
            finding("up", "rank [least, largest]", -2.0, -3.0, -1.0, 0.25, 5, "holds",
                    autoencoder="A"),
            finding("own", "gap", 1.0, None, None, 0.031, 4, "does not hold", autoencoder="A"),
        ],
        "numbers": {"model": {"model": "m", "hook": "h.1", "autoencoders": {"A": {}, "B_1": {}}}},
        "run": {"device": "cpu", "versions": {}, "stages": {
            "one": {"seconds": 61.2, "process_peak_mib": 2048},
            "two": {"seconds": 3.4, "process_peak_mib": 1024},
        }},
    }  # fmt: skip


def drawing(name, caption, **data):
    """A cell with a named figure, and an output of that data; without any, an image."""
    output = new_output("display_data", data or {"image/png": "iVBORw0="})
    cell = new_code_cell("plot()", outputs=[output])
    cell.metadata["mystnb"] = {"figure": {"name": name, "caption": caption}}
    return cell


def small_cells():
    return [
        new_markdown_cell("# A small page\n\nText.\n\n```bash\n# no heading\n```"),
        new_markdown_cell("## Verdict\n\ntext\n\n### Why: a verdict?"),
        drawing("first-figure", "It rises by 0.5 per cent. Then it falls."),
        drawing("skipped-figure", "Never drawn.", **{"text/plain": "x"}),
    ]


def small_page(record=None, cells=None, name="small"):
    command = f".venv/bin/saerepgeo run {name}"
    return Page(name, cells or small_cells(), record or small_record(), command)


SMALL_PRESETS = {
    "tiny": Preset("small", {"A": "a", "B_1": "b"}),
    "tiny-seed1": Preset("small", {"A": "a-seed1", "B_1": "b"}),
}


def small_sweep():
    """Two models; of the first two trainings (`SMALL_PRESETS`), of which B_1 is the same. In the
    first case they give the same numbers.
    """
    untested, no = "cannot be tested here", "does not hold"
    rows = [
        ("r1", "small", "tiny", "up", "months", "content", "A", "B_1", "holds", -2.0),
        ("r1", "small", "tiny", "up", "months", "entity", "A", "", "holds", -2.0),
        ("r1", "small", "tiny", "up", "months", "entity", "A", "B_1", untested, None),
        ("r2", "small", "tiny", "up", "days", "content", "B_1", "", no, -2.0),
        ("r3", "small", "tiny-seed1", "up", "months", "content", "A", "B_1", "holds", -2.0),
        ("r3", "small", "tiny-seed1", "up", "months", "entity", "A", "", no, -3.0),
        ("r3", "small", "tiny-seed1", "up", "months", "entity", "A", "B_1", untested, None),
        ("r4", "small", "tiny-seed1", "up", "days", "content", "B_1", "", no, -2.1),
        ("r5", "large", "big", "up", "days", "content", "A", "", no, -2.0),
    ]
    names = ["run", "model", "preset", "id", "concept", "tokens", "autoencoder", "against",
             "verdict", "low"]  # fmt: skip
    days = pd.to_datetime(["2026-01-02", *["2026-01-05"] * 8])
    return pd.DataFrame(rows, columns=names).assign(
        condition="", dose=float("nan"), high=-0.5, written=days
    )
