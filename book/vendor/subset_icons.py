"""Cut the theme's Font Awesome down to the icons that the theme and the book use.

    python book/vendor/subset_icons.py      # writes book/vendor/scripts/fontawesome.js

The result lies in the built book where the theme's own file (1.5 MB) would.
"""

import re
from pathlib import Path

import pydata_sphinx_theme

ICONS = {
    "angle-left", "angle-right", "arrow-up", "bars", "chevron-down", "chevron-up",
    "circle-half-stroke", "circle-info", "code", "download", "expand", "file", "file-pdf",
    "github", "lightbulb", "list", "magnifying-glass", "moon", "outdent", "pencil", "play",
    "rocket", "sun", "triangle-exclamation", "xmark",
}  # fmt: skip
_ICON = re.compile(
    r"""(?:"(?P<quoted>[a-z0-9-]+)"|(?P<bare>[a-z0-9]+)):"""
    r"""\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?"""
)


def subset(script: str) -> str:
    """The script with the drawings of ICONS alone."""
    short = _ICON.sub(
        lambda icon: icon[0] if (icon["quoted"] or icon["bare"]) in ICONS else "", script
    )
    return short.replace(",}", "}")


if __name__ == "__main__":
    static = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme/static/scripts"
    out = Path(__file__).parent / "scripts"
    out.mkdir(exist_ok=True)
    script = (static / "fontawesome.js").read_text(encoding="utf-8")
    licence = (static / "fontawesome.js.LICENSE.txt").read_text(encoding="utf-8")
    (out / "fontawesome.js").write_text(licence + subset(script), encoding="utf-8")
