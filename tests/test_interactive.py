"""Figures with a control: the HTML, the frames' words, the widgets, and a browser."""

import base64
import html
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import jupytext
import numpy as np
import pandas as pd
import papermill
import pytest
from jupyter_client.manager import run_kernel
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from planted_latents import random_latents
from scipy.spatial.distance import pdist
from stub_runs import PATIENCE

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.plots import frames as interactive
from saerepgeo_lib.plots import interventions, profiles, structure
from saerepgeo_lib.plots.cone import cone_frame
from saerepgeo_lib.plots.frames import Frame
from saerepgeo_lib.plots.style import COLOURS
from saerepgeo_lib.rank.noise_sweep import Sweep
from saerepgeo_lib.steering import dose_response
from saerepgeo_lib.synthetic import theory

VOID = {"img", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, and the texts; fails where a tag is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.texts = [], [], {}
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


def test_one_frame_is_seen_and_the_control_waits_for_its_script():
    for choice, tag in ((True, "select"), (False, "input")):
        read = Reader(made(choice=choice)._repr_html_())
        assert ["hidden" in picture for picture in read.all("img")] == [True, False, True]
        (field,) = read.all(tag)
        assert "hidden" in field
        assert read.texts["output"] == "0.5: the line ends at 1"
        assert "Noise level" in read.texts["label"]
        if choice:
            assert read.texts["option"] == "00.51"
            assert ["selected" in option for option in read.all("option")] == [False, True, False]
    said = {"type": "range", "min": "0", "max": "2", "step": "1", "value": "1"}
    assert said.items() <= field.items() and field["aria-valuetext"] == "0.5"


def image_of(source):
    return Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))


def test_every_frame_has_its_own_alt_text_and_an_opaque_picture_with_every_colour():
    pictures, labels = Reader(made().data).all("img"), ("0", "0.5", "1")
    texts = [f"Noise level {x}: the line ends at {i}. A line." for i, x in enumerate(labels)]
    assert [picture["alt"] for picture in pictures] == texts
    assert len({picture["src"] for picture in pictures}) == 3
    image = image_of(pictures[0]["src"])
    assert image.size == (156, 78) == (int(pictures[0]["width"]), int(pictures[0]["height"]))
    assert "transparency" not in image.info
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert all(picture["class"] == "dark-light" for picture in pictures)
    # no colour of a line is lost in the small palette
    ax = (figure := Figure(figsize=(3, 2))).subplots()
    for i, colour in enumerate(COLOURS):
        ax.plot([0, 1, 2], [i, 2 * i, i], color=colour, lw=3)
        ax.fill_between([0, 1, 2], [0, i, 0], color=colour, alpha=0.2)
    (picture,) = Reader(Frame(figure, "a", "b")._repr_html_()).all("img")
    found = np.array(image_of(picture["src"]).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in COLOURS:
        wanted = np.array(to_rgb(colour)) * 255
        assert np.abs(found - wanted).max(axis=1).min() <= 8, colour


def test_the_same_frames_are_the_same_bytes_and_only_they():
    one = made()
    assert one.data == made().data != made(start=0).data
    assert repr(one) == "<3 frames>"  # this reaches the executed notebook as well
    assert " id=" not in one.data  # two figures on a page cannot clash


def test_words_are_escaped_and_a_single_frame_has_no_control():
    nasty = '<b>"a" & b</b>'
    read = Reader(made((nasty, "other"), control=nasty, start=0).data)
    assert not read.all("b") and read.all("img")[0]["data-label"] == nasty
    assert read.texts["output"].startswith(nasty)
    shown = Frame(Figure(figsize=(1, 1)), nasty, nasty)._repr_html_()
    assert not Reader(shown).all("b") and html.escape(nasty) in shown
    read = Reader(made(("days",), start=0, choice=True).data)
    assert not read.all("select") + read.all("input") + read.all("script")
    assert "hidden" not in read.all("img")[0]


def test_frames_that_make_no_sense_are_refused():
    for labels, start, message in (
        ((), 0, "at least one frame"), ("ab", 2, "at least one"), ("aa", 0, "different")
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            made(labels, start=start)


# The frames of the pages


def test_frames_of_noise_and_of_clusters_say_what_they_show():
    levels, labels = (0.0, 0.1, 1.0), ("residual", "SAE")
    spectra = {(label, 3): np.tile(np.array([1.0, 0.5, 0.1]), (3, 2, 1)) for label in labels}
    active = dict.fromkeys(labels, np.ones((3, 2)))
    swept = Sweep(levels, (0, 1), 1.0, (3, 1), spectra=spectra, active=active)
    rows = [(label, 3, level, seed, "relative", 10 * i + 100 * (label == "SAE") + 2 * seed)
            for label in labels for i, level in enumerate(levels) for seed in (0, 1)]  # fmt: skip
    ranks = pd.DataFrame(rows, columns=["label", "mode", "level", "seed", "rule", "rank"])
    frame = profiles.noise_frame(swept, ranks, at=1, rule="relative", mode=3, tau=0.01)
    assert frame.label == "0.1"
    assert frame.says == "mean relative rank: residual 11, SAE 111"
    # a cluster frame counts clusters and tokens
    labels = {"residual": np.array([0, 0, 1, -1])}
    frame = structure.cluster_frame({"residual": np.eye(4)}, labels, label="days")
    assert frame.says == "4 tokens; residual 2 clusters with 75% of them"


def test_a_dose_frame_says_what_was_reached():
    at = dose_response.steered_at(random_latents(), dose_response.UNIFORM, 1.5)
    curve = pd.DataFrame({"SAE": ["SAE"] * 2, "AEDP": [1.0, 1.5], "MSE": [1.0, 2.0]})
    frame = interventions.dose_frame({"SAE": at}, curve, dose=1.5)
    error = at.steered.mse().item() / at.steered.before.mse
    assert frame.label == "1.5" and frame.says == f"SAE: AEDP x 1.50, MSE x {error:.3f}"
    rings, dots = (line.get_xydata() for line in frame.figure.axes[0].lines[-2:])
    np.testing.assert_allclose(pdist(dots), 1.5 * pdist(rings))  # a plane keeps the scaling


# With a kernel


def cone(height):
    path = theory.cone_coordinates(theory.cone_path(np.linspace(0, 4, 9)))
    return cone_frame(np.diag([1.0, height]), path, label=f"{height:g}")


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
    page, code = str(tmp_path / "page.ipynb"), "from saerepgeo_lib.plots import frames\n"
    code += "frames.recompute(lambda x: None, x=(0, 1)); print(frames.attended())"
    jupytext.write(jupytext.reads(code, fmt="py:percent"), page)
    done = papermill.execute_notebook(
        page, None, kernel_name="python3", progress_bar=False, start_timeout=PATIENCE
    )
    (said,) = done.cells[-1].outputs
    assert said["text"] == "False\n" and "widgets" not in done.metadata


def test_a_front_end_that_can_ask_a_person_is_attended():
    code, said = "from saerepgeo_lib.plots import frames; print(frames.attended())", []
    with run_kernel(kernel_name="python3", startup_timeout=PATIENCE) as client:
        for asks in (True, False):
            client.execute_interactive(
                code, allow_stdin=asks, stdin_hook=lambda _: None, timeout=PATIENCE,
                output_hook=lambda message: said.append(message["content"].get("text", "")),
            )  # fmt: skip
    assert "".join(said).split() == ["True", "False"]


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVEN = """<script>
  for (const box of document.querySelectorAll("div.frames")) {
    const seen = () => [...box.querySelectorAll("img")].map((p) => Number(!p.hidden)).join("")
      + " " + box.querySelector("output").textContent;
    const field = box.querySelector("input, select");
    const lines = [seen() + " " + field.hidden];
    field.value = 2;
    field.dispatchEvent(new Event("input"));
    box.insertAdjacentText("afterend", [...lines, seen()].join("; then ") + " END");
  }
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_two_controls_on_a_page_change_what_is_seen_in_a_browser_from_disk(tmp_path):
    page = tmp_path / "page.html"
    body = made().data + made(choice=True).data + DRIVEN
    page.write_text(f"<!doctype html><title>t</title><body>{body}", encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    slider, choice = re.findall(r"</div>([^<>]*) END", done.stdout)
    assert slider == choice == "010 0.5: the line ends at 1 false; then 001 1: the line ends at 2"
    assert done.stdout.count('aria-valuetext="1"') == 1  # the slider says it, a list need not
