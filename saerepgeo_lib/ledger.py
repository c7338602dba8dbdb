"""The claims ledger: from the records of the book's runs to one page of Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from saerepgeo_lib.claims import NOTHING, paper_claims, verdicts_in_words
from saerepgeo_lib.compare import n_concepts
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.pages import Page, plain

_LONG = 12  # rows; a longer table is folded
_SWEEP = "data/sweeps/all_concepts"
_SUMMARY = ("Claim", "Who says so", "Findings")  # the head of a table with a row a claim

_INTRODUCTION = """# Claims ledger

Every claim under test: who says so, and what was found. The page is made anew at each build of the
book, from the records of the runs that rendered its pages; without a record for every claim
there is no book. Claims tagged `[ours]` are not the paper's: they are questions that this book
adds. [What is the paper's, what is ours](whose_is_what.md) explains the tags.

A *finding* is one statistic in one case: a concept, and an autoencoder or a control. The counts
below stand apart for each of these; *dense AE* and *random* ones are controls. "months" is all
content tokens of that concept, "months (entity)" its entities' tokens alone. What it takes to
*hold* is said on the page where it is shown; *the opposite* means an interval wholly on the other
side. Cases share prompts and models, and nothing is corrected for their number: counts describe
these runs, and estimate nothing beyond them.
"""

_SWEEP_TEXT = """The shipped table of runs, not made by this build but on {dates}, by the code
of that day: {runs} runs on {concepts} concepts, preset {presets}. Cases 1 and 2 judge each concept
twice, on all content tokens and on its entities' alone; each run has one concept, so that a
correlation rests on five doses there. Cases that could not be had (a concept whose tokens fall
into no clusters) are not counted. [Many runs](../notebooks/compare_runs.ipynb) shows the table.
To make it again:

```bash
.venv/bin/saerepgeo sweep {path}.yml -o runs/all_concepts
.venv/bin/saerepgeo collect runs/all_concepts -o {path}.parquet
```
"""


def ledger(pages: Sequence[Page], sweep: pd.DataFrame) -> str:
    """The page on all claims of `data/paper_claims.json`, from records and the shipped sweep.

    `sweep` is a table as `compare.read_claims` gives it. Raises UserError for a claim on
    which the record of its page has no finding, or whose page or section does not exist; and for
    a finding on an unknown claim.
    """
    findings = {page.name: page.record["claims"] for page in pages}
    for place, claims in [*findings.items(), ("the sweep", sweep.to_dict("records"))]:
        for claim in claims:
            _known(claim["id"], place)
    by_name = {page.name: page for page in pages}
    sections = []
    case = ""
    for id, known in paper_claims().items():
        choose(f"page of the claim {id!r} in data/paper_claims.json:", known["page"], by_name)
        if not any(claim["id"] == id for claim in findings[known["page"]]):
            raise UserError(
                f"the claim {id!r} of data/paper_claims.json has no finding in the record of its "
                f"page {known['page']!r}: let that notebook add one (record.claims += "
                f"[Claim.of({id!r}, ...)]), name another page, or take the claim out of that file"
            )
        if known["case"] != case:
            case = known["case"]
            sections.append(f"## {case}\n")
        sections.append(_section(id, known, by_name[known["page"]], pages))
    return "\n".join(
        [_INTRODUCTION, _summary(pages), *sections, _over_concepts(sweep, labels_of(pages))]
    )


def _known(id: str, place: str) -> None:
    try:
        choose("claim", id, paper_claims())
    except UserError as error:
        raise UserError(f"{place}: {error}; claims stand in data/paper_claims.json") from None


def _summary(pages: Sequence[Page]) -> str:
    """One row a claim, the paper's and ours apart."""
    rows: dict[bool, list[list[str]]] = {False: [], True: []}
    for id, known in paper_claims().items():
        claims = [claim for page in pages for claim in page.record["claims"]]
        found = found_in_words(id, claims, labels_of(pages))
        rows[known["tag"] == "ours"].append([_link(id), _tag(known), found])
    return "\n".join(
        [
            "## In one minute\n\n### Said by the paper, or reported of it\n",
            _table(_SUMMARY, rows[False]),
            "### Asked by this book\n",
            _table(_SUMMARY, rows[True]),
        ]
    )


def labels_of(pages: Sequence[Page]) -> list[str]:
    """What findings are about: the autoencoders of the pages' runs, and the random pair."""
    found = [page.record["numbers"].get("subject", {}) for page in pages]
    labels = [label for subject in found for label in subject.get("autoencoders", [])]
    return [*dict.fromkeys(labels), NOTHING]


def found_in_words(id: str, claims: Iterable[Mapping[Any, Any]], labels: Sequence[str]) -> str:
    """The verdicts on one claim, counted for each of `labels` (or measure of the error).

    A finding belongs to the label with which its subject begins, after a concept if any. How often
    the opposite was found is said of claims with a direction.
    """
    findings: dict[str, list[Mapping[Any, Any]]] = {}
    for claim in claims:
        if claim["id"] == id:
            subject = claim["subject"]
            begins = (label for label in labels if f": {label}" in f": {subject}")
            name = next(begins, "all together")
            if "error " in subject:  # the same case by two measures
                name = "error " + subject.rpartition("error ")[2]
            findings.setdefault(name, []).append(claim)
    return "<br>".join(
        f"*{plain(name)}*: {verdicts_in_words([claim['verdict'] for claim in given])}"
        + _opposite(given, paper_claims()[id].get("direction"))
        for name, given in findings.items()
    )


def _opposite(claims: Sequence[Mapping[Any, Any]], direction: str | None) -> str:
    end, sign = ("high", 1) if direction == "above" else ("low", -1)
    missed = [c for c in claims if c["verdict"] == "does not hold"]
    n = sum(c[end] is not None and sign * c[end] < 0 for c in missed)
    return f" (the opposite in {n})" if direction and n else ""


def _section(id: str, known: dict[str, str], shown: Page, pages: Sequence[Page]) -> str:
    whose = " this book, not the paper" if known["tag"] == "ours" else ""
    parts = [
        f"(claim-{id})=\n### {known['title']}\n",
        f"{plain(known['statement'])}\n",
        f"- **Who says so**: {_tag(known)}{whose}\n"
        f"- **Reported**: {plain(known['reported'])}\n"
        f"- **n and interval**: {known['interval']}\n"
        + (f"- **Note**: {known['note']}\n" if "note" in known else "")
        + f"- **Shown in**: [{plain(shown.title)}, *{plain(known['section'])}*]"
        f"({shown.link(known['section'])})\n",
    ]
    for page in pages:
        mine = [claim for claim in page.record["claims"] if claim["id"] == id]
        if mine:
            parts.append(_found(page, mine))
    return "\n".join(parts)


def _found(page: Page, claims: list[dict[str, Any]]) -> str:
    """The findings of one run: verdicts in words, where they come from, a table a statistic."""
    preset = page.record["parameters"].get("preset")
    named = f", preset `{preset}`" if preset else ""
    tables = []
    for statistic in dict.fromkeys(claim["statistic"] for claim in claims):
        name, _, ends = statistic.partition(" [")
        names = [
            "Case",
            "Verdict",
            f"Value [{ends.removesuffix(']') or '95 % interval'}]",
            "p",
            "n",
        ]
        rows = (
            [
                plain(claim["subject"]), claim["verdict"], _interval(claim), _p(claim["p"]),
                str(claim["n"]),
            ]
            for claim in claims
            if claim["statistic"] == statistic
        )  # fmt: skip
        tables.append(f":::{{table}} {plain(name)}\n{_table(names, rows)}:::\n")
    text = "\n".join(tables)
    if len(claims) > _LONG:
        text = f"::::{{dropdown}} All {len(claims)} findings\n{text}\n::::\n"
    return (
        f"**Found**{named}: {verdicts_in_words([claim['verdict'] for claim in claims])}. "
        f"Rerun: `{page.command}` "
        f"([record of the run]({page.downloads['record']}))\n\n{text}"
    )


def _over_concepts(sweep: pd.DataFrame, labels: Sequence[str]) -> str:
    rows, claims = [], sweep.to_dict("records")
    for id, known in paper_claims().items():
        found = found_in_words(id, claims, labels) or "not in these runs"
        rows.append([_link(id), _tag(known), found])
    dates = sorted({f"{date:%Y-%m-%d}" for date in sweep["written"]})
    n = n_concepts(sweep["concept"])
    text = _SWEEP_TEXT.format(
        dates=" to ".join(dict.fromkeys([dates[0], dates[-1]])),
        runs=sweep["run"].nunique(),
        concepts=n,
        presets=", ".join(f"`{name}`" for name in sweep["preset"].unique()),
        path=_SWEEP,
    )
    return "\n".join([f"## Over {n} concepts\n", text, _table(_SUMMARY, rows)])


def _link(id: str) -> str:
    return f"[{paper_claims()[id]['title']}](#claim-{id})"


def _tag(known: dict[str, str]) -> str:
    return f"`[{known['tag']}]`"


def _interval(claim: dict[str, Any]) -> str:
    low, high = _number(claim["low"]), _number(claim["high"])
    ends = "–" if low == high == "–" else f"[{low}, {high}]"
    value = _number(claim["value"])
    return "–" if value == ends == "–" else f"{value} {ends}".replace("[", "\\[")


def _number(value: float | None) -> str:
    """Three digits, with a true minus; "–" for what is undefined."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
