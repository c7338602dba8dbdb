"""No result is typed: a number in the book's prose is a setting, a convention, or in the record."""

import ast
import re
from pathlib import Path

import jupytext
import pytest

from saerepgeo_lib.studies.paper_claims import paper_claims

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"(?<![\w.])[-−+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?(?!\w)")
CONVENTIONS = {"95", "0.05"}  # percent of intervals, level of tests
REPORTED = {n for c in paper_claims().values() for n in NUMBER.findall(c["reported"])}
# Sentences with other numbers, and where these come from: a module of the library (room/name) in
# which they stand as literals; the test that asks the record; or, in words, why the number is no
# result.
CAPTIONS = "see test_captions.py"
EXPLAINED = {
    "beyond_language": {
        "8 by 8 pixels in 17 shades": "studies/vision/digits",
        "to the base 17": "studies/vision/digits",
        "blocks of 64 dimensions": "studies/vision/digits",
        "so that it is 1.2": "studies/steering_experiment",
    },
    "calibration": {
        "a matrix of 96 tokens and 384 directions": "synthetic/calibration",
        "in 50 ambient dimensions": "synthetic/calibration",
        "300 points, mean estimates": "synthetic/calibration",
        "dimension 3 or 20 in 50 dimensions": "synthetic/calibration",
        "in 50 and in 384 ambient dimensions": "synthetic/calibration",
        "A test at level 5 % should": "the level of tests, as 0.05",
        "a rate between 3 and 7 %": "an aim, drawn in the figure",
        "3 to 7 %": "the same aim",
        "can reach 6/128": "all sign patterns of seven values: 2 to the 7th",
        "with six only 2/64": "all sign patterns of six values: 2 to the 6th",
        "jump to 96 with the smallest": "an exercise on the matrix above",
        "radius 1 is 10 % too high": "the square root of 1 + 2/10",
        "down to 1 %": "an exercise",
        "too low at rank 32": "synthetic/calibration",
        "the book uses 30": "geometry/arrangements",
    },
    "intervention": {
        "up to 1.5 and down to 0.5": "studies/steering_experiment",
        "at 0.5, 0.8, 1, 1.2 and 1.5": "steering/latents",
        "it lies between 1.05 and 1.15": CAPTIONS,
        "within 2 % of 1": CAPTIONS,
        "random model near 0.36": CAPTIONS,
        "1.2 (*planted*)": "studies/steering_experiment",
        "error at 1.2 times": "studies/steering_experiment",
        "at most 1 % counts": "steering/optimise",
        "L1 SAE by 1.13": CAPTIONS,
    },
    "noise_and_rank": {
        "put the threshold at 1.5": "a setting, in the page's code",
        "in 400 tokens of 32 dimensions": "a setting, in the page's code",
    },
    "local_dimension": {
        "From 0.2 on": "geometry/local_dimension",
        "within its 40 nearest": "geometry/local_dimension",
    },
    "trained_again": {
        "for blocks 3, 10 and 20": "studies/smollm2",
        "TopK SAE, block 10": "studies/recipes",
    },
    "rank_rule_ablation": {
        "null of 19 draws": "synthetic/data",
        "0.5 is guessing": "what an AUC means",
        "relative range 0.5 against": "equal by construction; see the solution",
    },
    "representation_structure": {
        "keep the same 90 % of": "geometry/points",
        "UMAP to 50 dimensions": "geometry/clusters",
        "asked for 50": "geometry/clusters",
        "fewer than 60 tokens": "UMAP needs more points than dimensions",
        "fill 50 dimensions": "geometry/clusters",
    },
    "stratified_manifold": {"relative range above 5 %": "studies/case1_verdict"},
    "unfolding_a_tensor": {
        "a tensor of 24 numbers": "2 by 3 by 4",
        "same 24 entries": "2 by 3 by 4",
        "the same 24 numbers": "2 by 3 by 4",
        "2 by 12 and 4 by 6": "2 by 3 by 4, unfolded",
        "from 1 to 1e-12": "a setting, in the page's code",
        "near 1e-8": "the square root of float64's precision",
        "near 1e-7 and 1e-4": "float32's precision and its square root",
        "With 12 prompts": "an exercise",
    },
    "differences": {"adjusted Rand index below 0.9": "studies/differences_verdict"},
    "how_to_read": {
        "You need Python 3.11 to 3.13": "those tested",
        "92 of the 157 architectures": "held by test_architectures",
    },
    "whose_is_what": {
        "Noise levels 0, 0.02": "rank/noise_sweep",
        "UMAP to 50 dimensions": "geometry/clusters",
        "scale factors 0.5 to 1.5": "steering/latents",
    },
}


def sentences(text):
    """A Markdown text's sentences, without code, formulas, links, citations and list numbers."""
    for pattern in (r"```.*?```", r"\$\$.*?\$\$", r"\$[^$]*\$", r"`[^`]*`", r"(?<=\])\([^)]*\)",
                    r"\{cite\w*\}\S*", r"^\s*\d+\.\s"):  # fmt: skip
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(s.split()) for s in re.split(r"(?<=[.!?:;])\s+|\n\n|\|", text)]


def numbers_of(sentence):
    """Numbers of two digits, of a fraction, a percentage or "3 of 6": results look like these."""
    found = [n.strip(",") for n in NUMBER.findall(sentence)]
    counted = "%" in sentence or re.search(r"\d of \d", sentence)
    return [n for n in found if counted or re.search(r"[.e]|\d\d", n)]


def shown_strings(code):
    """The constant parts of texts that a cell shows as Markdown."""
    for call in ast.walk(ast.parse(code)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Markdown":
            formats = [n.format_spec for n in ast.walk(call) if isinstance(n, ast.FormattedValue)]
            skipped = {node for spec in formats if spec for node in ast.walk(spec)}
            for node in set(ast.walk(call)) - skipped:
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def texts_of(path):
    """Everything that a page says in fixed words, and its cell of parameters."""
    cells = jupytext.read(path).cells
    code = "\n".join(c.source for c in cells if c.cell_type == "code" and path.suffix == ".py")
    code = re.sub(r"^%.*", "", code, flags=re.MULTILINE)
    texts = [c.source for c in cells if c.cell_type != "code"]
    for cell in cells:
        look = cell.metadata.get("mystnb", {})
        texts += [look.get("image", {}).get("alt", ""), look.get("figure", {}).get("caption", "")]
    settings = "\n".join(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    return [*texts, *(shown_strings(code) if code else [])], settings


def literals(code):
    """Numbers that stand in code, outside its texts, as written there and as percentages."""
    values = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)]
    numbers = [value for value in values if isinstance(value, int | float)]
    return {f"{times * number:g}" for number in numbers for times in (1, 100)}


def unexplained(path):
    """Sentences of a page with numbers that nothing explains."""
    texts, settings = texts_of(path)
    known, used = CONVENTIONS | REPORTED | literals(settings), set()
    explained = EXPLAINED.get(path.stem, {})
    for sentence in [s for text in texts for s in sentences(text)]:
        missing = set(numbers_of(sentence)) - known
        words = next((w for w in explained if w in sentence), "")
        used.add(words)
        source = explained.get(words, "no source")
        if " " not in source:
            module = ROOT / "saerepgeo_lib" / f"{source}.py"
            missing -= literals(module.read_text(encoding="utf-8"))
        missing -= set(NUMBER.findall(words)) if " " in source else set()
        if missing:
            yield f"{path.stem}: {', '.join(sorted(missing))} in {sentence!r}"
    yield from (f"{path.stem}: no sentence says {w!r}" for w in explained if w not in used)


PAGES = sorted((ROOT / "notebooks").glob("*.py")) + sorted((ROOT / "book").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_result_is_typed_in_prose(path):
    assert not list(unexplained(path))


def test_a_typed_result_is_found(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(
        "# %% [markdown]\n# The rank is 17.3 here, at level 2.5; see $x = 3.14$ and `9.81`.\n"
        '# %% mystnb={"image": {"alt": "falls by 30 %"}}\n'
        'n = 2.5\nMarkdown(f"r is {n:.2f} of 0.77")\n'
        "# %% [markdown]\n# It is .93 and 1e3, in 4 of 6 cases.\n"
        '# %% tags=["parameters"]\nlevel: float = 2.6  # 8.8\n# %% [markdown]\n# At 2.6 of 8.8.\n'
    )
    found = [line.partition(" in ")[0] for line in unexplained(page)]
    assert found == [
        "page: 17.3, 2.5", "page: .93, 1e3, 4, 6", "page: 8.8", "page: 30", "page: 0.77"
    ]  # fmt: skip
