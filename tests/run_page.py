"""A notebook's cells executed in the test's own process, which takes no kernel and no imports."""

import ast
import json
import os
import re
from dataclasses import replace
from unittest import mock

import jupytext
import matplotlib.pyplot as plt
from IPython.display import display

from saerepgeo_lib.activations.prompts import load_concept
from saerepgeo_lib.companion.notebooks import NOTEBOOK_DIR
from saerepgeo_lib.companion.records import RECORD_VARIABLE, read_record

SMALL = {  # parameters with which a case's page takes seconds
    "stratified_manifold": {"noise_levels": [0.0, 0.1], "n_seeds": 2, "max_slots": 1},
    "representation_structure": {
        "n_random": 1, "n_groups": 3, "n_umap_concepts": 0, "min_cluster_size": 4,
    },
    "intervention": {
        "n_steps": 2, "n_walks": 1, "n_bootstrap": 40, "n_groups": 3, "min_cluster_size": 4,
    },
}  # fmt: skip


def run_page(name, folder, **parameters):
    """What the cells of a page end with, in order, and the page's record, written to `folder`.

    On the smaller of the embedded models, unless the parameters name another preset.
    """
    page, shown = {"__name__": "__main__", "display": display}, []
    record = folder / "page.record.json"
    with mock.patch.dict(os.environ, {RECORD_VARIABLE: str(record)}):
        for cell in jupytext.read(NOTEBOOK_DIR / f"{name}.py").cells:
            if cell.cell_type != "code":
                continue
            body = ast.parse(re.sub(r"^%.*", "", cell.source, flags=re.MULTILINE)).body
            last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), name, "exec"), page)
            if last is not None:
                shown.append(eval(compile(ast.Expression(last.value), name, "eval"), page))
            if "parameters" in cell.metadata.get("tags", []):
                assert set(parameters) <= set(page["__annotations__"])
                small = {"preset": "minilm"} if "preset" in page else {}
                page.update(small | parameters)
    plt.close("all")
    return shown, read_record(record)


def few_days():
    """The days' concept with four frames only, 28 prompts, so that a test takes seconds."""
    days = load_concept("days")
    frames = list(dict.fromkeys(prompt.frame for prompt in days.prompts))[:4]
    return replace(days, prompts=tuple(p for p in days.prompts if p.frame in frames))


def in_a_file(concept, folder):
    """A page's parameters that name the concept, which is written to a file in `folder`."""
    prompts = [{k: v for k, v in vars(p).items() if v is not None} for p in concept.prompts]
    words = sorted(concept.template_words)
    path = folder / "few.json"
    path.write_text(json.dumps({concept.name: {"prompts": prompts, "template_words": words}}))
    return {"concept": concept.name, "prompts_file": str(path)}
