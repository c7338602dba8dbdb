"""Figures with a control: frames that need no kernel, and with a kernel widgets that recompute."""

import base64
import html
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from saerepgeo_lib.errors import UserError

# Runs once an output and takes every figure that has no working control yet; a block, so that
# nothing becomes global. Jupyter, VS Code and Colab put an output's scripts in different places:
# so the figure is looked for, not taken to stand around the script.
_SCRIPT = """{
  for (const box of document.querySelectorAll("div.frames:not([data-ready])")) {
    const control = box.querySelector("input, select");
    const pictures = box.querySelectorAll("img");
    const show = () => {
      pictures.forEach((picture, i) => { picture.hidden = i !== Number(control.value); });
      const { label, says } = pictures[control.value].dataset;
      box.querySelector("output").textContent = `${label}: ${says}`;
      if (control.type === "range") control.setAttribute("aria-valuetext", label);
    };
    control.addEventListener("input", show);
    control.hidden = false;
    box.dataset.ready = "";
    show();
  }
}"""


_TEXT = '<p class="tex2jax_ignore">'  # names with dollar signs are no formulas


@dataclass(frozen=True)
class Frame:
    """One state of a figure: its control's value in words, and what is seen, in a sentence.

    `says` has the numbers of the run, ends without a full stop, and is shown below the figure.
    """

    figure: Figure
    label: str
    says: str

    def _repr_html_(self) -> str:
        return (
            _picture(self, f"{self.label}: {self.says}.") + f"{_TEXT}{html.escape(self.says)}.</p>"
        )


@dataclass(frozen=True, repr=False)
class Frames:
    """Frames under one native control, as HTML that needs no kernel and no network.

    Without JavaScript, and in print, one frame stands there with its label and no control.
    """

    data: str

    def _repr_html_(self) -> str:
        return self.data

    def __repr__(self) -> str:
        return f"<{self.data.count('<img ')} frames>"


def frames(
    drawn: Iterable[Frame], *, control: str, shows: str, start: int = 0, choice: bool = False
) -> Frames:
    """One of the frames at a time, under a slider, or under a list if it is a `choice`.

    `control` names what the reader sets; `shows` says what every frame draws, and follows a
    frame's own words in its alt text. `start` is the frame that is seen first. Each frame is
    rendered before the next is asked for, so they may share a figure. A single frame stands
    there without a control. Raises UserError without frames, or with two of one label.
    """
    pictures, labels, said = [], [], []
    for i, frame in enumerate(drawn):
        alt = f"{control} {frame.label}: {frame.says}. {shows}"
        pictures.append(_picture(frame, alt, hidden=i != start))
        labels.append(html.escape(frame.label))
        said.append(html.escape(f"{frame.label}: {frame.says}"))
    if not 0 <= start < len(labels):
        raise UserError(f"need at least one frame and a start among them: {len(labels)}, {start}")
    if len(set(labels)) < len(labels):
        raise UserError(f"frames need different labels, got {labels}")
    options = "".join(
        f'<option value="{i}"{" selected" * (i == start)}>{label}</option>'
        for i, label in enumerate(labels)
    )
    field = f'<select autocomplete="off" hidden>{options}</select>'
    if not choice:
        field = (
            f'<input type="range" min="0" max="{len(labels) - 1}" step="1" value="{start}" '
            f'aria-valuetext="{labels[start]}" autocomplete="off" hidden>'
        )
    script = f"<script>{_SCRIPT}</script>"
    if len(labels) == 1:
        field = script = ""
    words = f"<label>{html.escape(control)} {field}</label> <output>{said[start]}</output>"
    shown = "\n".join(pictures)
    return Frames(
        f'<div class="frames">\n{_TEXT}{words}</p>\n<div>\n{shown}\n</div>\n{script}\n</div>'
    )


def _picture(frame: Frame, alt: str, *, hidden: bool = False) -> str:
    drawn, small = io.BytesIO(), io.BytesIO()
    frame.figure.savefig(drawn, format="png", dpi=78)
    with Image.open(drawn) as image:
        width, height = image.size
        # a palette takes a third of the bytes
        image.convert("RGB").quantize(128).save(small, format="png", optimize=True)
    data = base64.b64encode(small.getvalue()).decode("ascii")
    words = {"alt": alt, "data-label": frame.label, "data-says": frame.says}
    given = " ".join(f'{name}="{html.escape(value)}"' for name, value in words.items())
    return (
        f'<img class="dark-light" {given} width="{width}" height="{height}"'
        f'{" hidden" * hidden} src="data:image/png;base64,{data}">'
    )


def attended() -> bool:
    """Whether a person sits before the kernel: only then does a front end let cells ask for input.

    papermill, nbclient and our runner do not: no executed notebook has a widget without a kernel.
    """
    shell = sys.modules.get("IPython")  # a notebook's kernel has loaded it
    kernel = getattr(shell and shell.get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin", False))


def recompute(draw: Callable[..., Frame], **controls: Any) -> None:
    """Offer the figure for values of the reader's own, where there is a reader with a kernel."""
    if attended():
        from IPython.display import display

        display(widgets(draw, **controls))


def widgets(draw: Callable[..., Frame], **controls: Any) -> Any:
    """A widget for each argument of `draw`, which draws anew when one is set or let go.

    `controls` are ipywidgets' abbreviations: (low, high, step), or a list to choose from.
    """
    import ipywidgets

    made = ipywidgets.interactive(draw, {"auto_display": True}, **controls)
    for widget in made.kwargs_widgets:
        widget.description = widget.description.replace("_", " ")
        widget.style.description_width = "initial"
        if widget.has_trait("continuous_update"):
            widget.continuous_update = False
    return made
