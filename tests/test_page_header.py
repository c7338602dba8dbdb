"""The box under a page's title."""

from small_pages import CLAIMS, small_page, small_record

from saerepgeo_lib import ledger
from saerepgeo_lib import page_header as page_header_module
from saerepgeo_lib.page_header import page_header, with_header
from saerepgeo_lib.repository import Repository


def test_the_box_states_what_the_record_holds():
    lines = page_header(small_page(), None).splitlines()
    assert lines == [
        ":::{div} page-header",
        "- **Preset**: `tiny` (A, B\\_1 at `h.1`); months, days",
        "- **Time and memory** of this run: 1 min 5 s in its timed stages, besides imports; at "
        "most 2.0 GiB of main memory; device cpu",
        "- **On a Colab GPU**: not measured",
        "- **Download**: [executed notebook](path:../executed/small.ipynb) · "
        "[its record](path:../executed/small.record.json)",
        ":::",
    ]


def test_what_the_record_does_not_state_is_left_out():
    record = small_record()
    record["parameters"] = {"n": 3}
    record["run"]["stages"] = {}
    text = page_header(small_page(record), None)
    assert "Preset" not in text and "no stage was timed" in text and "Download" in text
    record["run"]["stages"] = {"one": {"seconds": 0.2, "process_peak_mib": 700}}
    assert "1 s in its timed stages, besides imports; at most 700 MiB" in page_header(
        small_page(record), None
    )
    record["parameters"] = {"preset": "RELEASE:ID", "model_name": "my/model", "concept": "days"}
    record["numbers"] = {}
    text = page_header(small_page(record), None)
    assert "- **Preset**: `RELEASE:ID`; model `my/model`; days\n" in text


def test_the_source_is_linked_where_there_is_an_address():
    there = Repository("https://github.com/a/b", "trunk")
    place = "[source](https://github.com/a/b/blob/trunk/notebooks/small.py)"
    text = page_header(small_page(), there)
    assert place in text and "](https://colab.research.google.com/github/a/b/blob/trunk/" in text


def test_what_was_found_stands_below_the_box_and_a_gpu_needs_no_guess(monkeypatch):
    monkeypatch.setattr(ledger, "paper_claims", lambda: CLAIMS)
    monkeypatch.setattr(page_header_module, "paper_claims", lambda: CLAIMS)
    record = small_record()
    record["run"]["device"] = "cuda"
    text = page_header(small_page(record), None)
    assert "Colab" not in text and "It is more" not in text
    row = "- [It rises](#claim-up): *A*: holds in 2 of 3; cannot be tested"
    assert row in text.split(":::{admonition} Found on this page\n")[1]


def test_the_box_stands_under_the_title():
    assert with_header("# Title\n\nText.\n", "BOX") == "# Title\n\nBOX\n\nText.\n"
    assert with_header("# Title", "BOX") == "# Title\n\nBOX\n"
