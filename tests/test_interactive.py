"""Figures with a control: the HTML, the frames' words, the widgets, and a browser."""

import base64
import html
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import papermill
import pytest
from jupyter_client.manager import start_new_kernel
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from planted_codes import random_setting
from scipy.spatial.distance import pdist

from saerepgeo_lib import (
    dose_response,
    interactive,
    plots_cone,
    plots_intervention,
    plots_structure,
    plots_sweep,
    theory,
)
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.interactive import Frame
from saerepgeo_lib.noise_sweep import Sweep
from saerepgeo_lib.plots import COLOURS

VOID = {"img", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, and the texts; fails where a tag is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def drawn(labels):
    for i, label in enumerate(labels):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, i])
        yield Frame(figure, label, f"the line ends at {i}")


def made(labels=("0", "0.5", "1"), **options):
    options = {"control": "Noise level", "shows": "A line.", "start": 1} | options
    return interactive.frames(drawn(labels), **options)


@pytest.mark.parametrize("choice", [False, True])
def test_one_frame_is_seen_and_the_control_waits_for_its_script(choice):
    read = Reader(made(choice=choice)._repr_html_())
    pictures = read.all("img")
    assert ["hidden" in picture for picture in pictures] == [True, False, True]
    (field,) = read.all("select" if choice else "input")
    assert "hidden" in field
    assert read.texts["output"] == "0.5: the line ends at 1"
    assert "Noise level" in read.texts["label"]


def test_a_slider_says_its_value_in_words_and_a_list_names_every_frame():
    (slider,) = Reader(made().text).all("input")
    assert slider["aria-valuetext"] == "0.5"
    assert [slider[k] for k in ("type", "min", "max", "step", "value")] == [
        "range", "0", "2", "1", "1"
    ]  # fmt: skip
    read = Reader(made(choice=True).text)
    assert read.texts["option"] == "00.51"
    assert ["selected" in option for option in read.all("option")] == [False, True, False]


def test_every_frame_has_its_own_alt_text_and_an_opaque_picture():
    pictures = Reader(made().text).all("img")
    assert [picture["alt"] for picture in pictures] == [
        f"Noise level {label}: the line ends at {i}. A line."
        for i, label in enumerate(("0", "0.5", "1"))
    ]
    files = [picture["src"].removeprefix("data:image/png;base64,") for picture in pictures]
    assert len(set(files)) == 3
    with Image.open(io.BytesIO(base64.b64decode(files[0]))) as image:
        assert image.size == (156, 78) == (int(pictures[0]["width"]), int(pictures[0]["height"]))
        assert "transparency" not in image.info
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert all(picture["class"] == "dark-light" for picture in pictures)


def test_no_colour_of_a_line_is_lost_in_the_small_palette():
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    for i, colour in enumerate(COLOURS):
        ax.plot([0, 1, 2], [i, 2 * i, i], color=colour, lw=3)
        ax.fill_between([0, 1, 2], [0, i, 0], color=colour, alpha=0.2)
    source = Frame(figure, "a", "b")._repr_html_().split("base64,")[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        found = np.array(image.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in COLOURS:
        wanted = np.array(to_rgb(colour)) * 255
        assert np.abs(found - wanted).max(axis=1).min() <= 8, colour


def test_the_same_frames_are_the_same_bytes_and_only_they():
    assert made().text == made().text != made(start=0).text
    assert repr(made()) == "<3 frames>"  # this reaches the executed notebook as well
    assert " id=" not in made().text  # two figures on a page cannot clash


def test_words_are_escaped():
    nasty = '<b>"a" & b</b>'
    read = Reader(made((nasty, "other"), control=nasty, start=0).text)
    assert not read.all("b")
    assert read.all("img")[0]["data-label"] == nasty
    assert read.texts["output"].startswith(nasty)
    shown = Frame(Figure(figsize=(1, 1)), nasty, nasty)._repr_html_()
    assert not Reader(shown).all("b") and html.escape(nasty) in shown


def test_a_single_frame_has_no_control():
    read = Reader(made(("days",), start=0, choice=True).text)
    assert not read.all("select") + read.all("input") + read.all("script")
    assert "hidden" not in read.all("img")[0]


@pytest.mark.parametrize(
    ("labels", "start", "message"),
    [((), 0, "at least one frame"), (("a", "b"), 2, "at least one"), (("a", "a"), 0, "different")],
)
def test_frames_that_make_no_sense_are_refused(labels, start, message):
    with pytest.raises(UserError, match=message):
        made(labels, start=start)


# The frames of the pages


def test_a_noise_frame_says_the_mean_rank_at_its_level():
    levels, labels = (0.0, 0.1, 1.0), ("residual", "SAE")
    spectra = {(label, 3): np.tile(np.array([1.0, 0.5, 0.1]), (3, 2, 1)) for label in labels}
    swept = Sweep(
        levels, (0, 1), 1.0, (3, 1), spectra=spectra, active=dict.fromkeys(labels, np.ones((3, 2)))
    )
    rows = [
        (label, 3, level, seed, "relative", 10 * i + 100 * (label == "SAE") + 2 * seed)
        for label in labels for i, level in enumerate(levels) for seed in (0, 1)
    ]  # fmt: skip
    ranks = pd.DataFrame(rows, columns=["label", "mode", "level", "seed", "rule", "rank"])
    frame = plots_sweep.noise_frame(swept, ranks, at=1, rule="relative", mode=3, tau=0.01)
    assert frame.label == "0.1"
    assert frame.says == "mean relative rank: residual 11, SAE 111"


def test_a_cluster_frame_counts_clusters_and_tokens():
    points = {"residual": np.eye(4)}
    frame = plots_structure.cluster_frame(
        points, {"residual": np.array([0, 0, 1, -1])}, label="days"
    )
    assert frame.says == "4 tokens; residual 2 clusters with 75% of them"


def test_a_dose_frame_says_what_was_reached():
    setting = random_setting()
    found = dose_response.edited_at(setting, dose_response.UNIFORM, 1.5)
    curve = pd.DataFrame({"SAE": ["SAE"] * 2, "AEDP": [1.0, 1.5], "MSE": [1.0, 2.0]})
    frame = plots_intervention.dose_frame(
        {"SAE": setting}, {"SAE": found}, {"SAE": 0.25}, curve, dose=1.5
    )
    assert frame.label == "1.5" and frame.says == "SAE: AEDP x 1.50, MSE x 0.250"
    rings, dots = (line.get_xydata() for line in frame.figure.axes[0].lines[-2:])
    np.testing.assert_allclose(pdist(dots), 1.5 * pdist(rings))  # a plane keeps the scaling


# With a kernel


def cone(height: float, *, tilt: float = 0.0) -> Frame:
    matrix = np.array([[1.0, tilt], [tilt, height]])
    values = np.linalg.eigvalsh(matrix)[::-1]
    point = theory.cone_coordinates(matrix[None])[0]
    path = theory.cone_coordinates(theory.cone_path(np.linspace(0, 4, 9)))
    return plots_cone.cone_frame(
        matrix, point, values, theory.rank_of(matrix), path, label=f"{height:g}"
    )


def test_a_widget_computes_anew_when_it_is_set():
    asked = []

    def draw(how_high, kind):
        asked.append((how_high, kind))
        return cone(how_high)

    made = interactive.widgets(draw, how_high=(0.0, 1.0, 0.25), kind=["a", "b"])
    slider, choice = made.kwargs_widgets
    assert slider.description == "how high" and not slider.continuous_update
    slider.value = 0.0
    assert "rank 1, on its surface" in made.result.says
    slider.value = 0.25
    assert "eigenvalues 1.00 and 0.25; rank 2, inside" in made.result.says
    choice.value = "b"
    assert asked[1:] == [(0.0, "a"), (0.25, "a"), (0.25, "b")]


def test_nobody_sits_before_a_test_or_before_papermill(tmp_path, capsys):
    assert not interactive.attended()
    interactive.recompute(cone, height=(0.0, 1.0, 0.5))
    assert capsys.readouterr().out == ""
    source = tmp_path / "page.ipynb"
    code = (
        "# %%\nfrom saerepgeo_lib import interactive\n"
        "interactive.recompute(lambda x: None, x=(0, 1))\n# %%\ninteractive.attended()"
    )
    jupytext.write(jupytext.reads(code, fmt="py:percent"), source)
    done = papermill.execute_notebook(
        str(source), str(tmp_path / "done.ipynb"), kernel_name="python3", progress_bar=False
    )
    assert done.cells[-2].outputs == []
    assert done.cells[-1].outputs[0]["data"]["text/plain"] == "False"
    assert "widgets" not in done.metadata


@pytest.mark.parametrize("asks", [True, False])
def test_a_front_end_that_can_ask_a_person_is_attended(asks):
    said = []
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive(
            "from saerepgeo_lib import interactive; print(interactive.attended())",
            allow_stdin=asks, stdin_hook=lambda _: None, timeout=60,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )  # fmt: skip
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(said).strip() == str(asks)


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVEN = """
<p id="before"></p><p id="after"></p>
<script>
  const seen = () => [...document.images].map((p) => Number(!p.hidden)).join("") + " "
    + document.querySelector("output").textContent;
  const field = document.querySelector("input, select");
  document.getElementById("before").textContent = seen() + " " + field.hidden;
  field.value = 2;
  field.dispatchEvent(new Event("input"));
  document.getElementById("after").textContent = seen();
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("choice", [False, True])
def test_the_control_changes_what_is_seen_in_a_browser_from_disk(tmp_path: Path, choice):
    page = tmp_path / "page.html"
    page.write_text(
        f"<!doctype html><title>t</title><body>{made(choice=choice).text}{DRIVEN}",
        encoding="utf-8",
    )
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert '<p id="before">010 0.5: the line ends at 1 false</p>' in done.stdout
    assert '<p id="after">001 1: the line ends at 2</p>' in done.stdout
    assert ('aria-valuetext="1"' in done.stdout) != choice
