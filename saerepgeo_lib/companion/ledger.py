"""What was found on each claim: from the records of the book's runs to one page of Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from saerepgeo_lib.activations.sae_files import PRESETS
from saerepgeo_lib.companion.pages import Page, render
from saerepgeo_lib.errors import UserError, choose, nearest
from saerepgeo_lib.stats.claims import UNTESTED
from saerepgeo_lib.studies.paper_claims import paper_claims, verdicts_in_words
from saerepgeo_lib.text import plain

# what distinguishes the cases of a claim that names no autoencoder
_CASE = ("statistic", "concept", "tokens", "condition", "dose")
Finding = Mapping[Any, Any]  # a `Claim` as a mapping, from a record or a row of the sweep


def ledger(pages: Sequence[Page], sweep: pd.DataFrame) -> str:
    """The page on all claims of `data/paper_claims.json`, from records and the shipped sweep.

    `sweep` is a table as `compare.read_claims` gives it. Raises UserError for a claim on
    which the record of its page has no finding, or whose page or section does not exist; and for
    a finding on an unknown claim.
    """
    known = paper_claims()
    if lacking := [name for name in ("model", "preset") if sweep[name].isna().any()]:
        raise UserError(f"the sweep has runs without {' and '.join(lacking)}; collect it again")
    by_name = {page.name: page for page in pages}
    swept = sweep.to_dict("records")
    for place, findings in [*((p.name, p.record["claims"]) for p in pages), ("the sweep", swept)]:
        for id in (finding["id"] for finding in findings if finding["id"] not in known):
            advice = f"{nearest(id, known)}; claims stand in data/paper_claims.json"
            raise UserError(f"{place}: unknown claim {id!r}; {advice}")
    runs = {model: _once(rows) for model, rows in sweep.groupby("model", sort=False)}
    claims = []
    for id, claim in known.items():
        name = claim["page"]
        choose(f"page of the claim {id!r} in data/paper_claims.json:", name, by_name)
        found = {page.name: [c for c in page.record["claims"] if c["id"] == id] for page in pages}
        if not found[name]:
            raise UserError(
                f"the claim {id!r} of data/paper_claims.json has no finding in the record of its "
                f"page {name!r}: let that notebook add one (record.claims += [Claim.of({id!r}, "
                "...)]), name another page, or take the claim out of that file"
            )
        claims.append(claim | {
            "id": id, "shown": by_name[name],
            "swept": {model: found_in_words(id, findings) for model, findings in runs.items()},
            "found": found_in_words(id, chain.from_iterable(found.values())),
            "runs": [(page, found[page.name]) for page in pages if found[page.name]],
        })  # fmt: skip
    return render("claims", claims=claims, sweep=sweep, in_words=verdicts_in_words)


def _once(rows: pd.DataFrame) -> Sequence[Finding]:
    """One model's rows of the sweep; of what rests on no SAE that was trained again (the dense
    autoencoder, a random model) those of the first preset, since the others compute the same.
    """
    presets = list(rows["preset"].unique())
    saes = [PRESETS[preset].saes for preset in presets if preset in PRESETS]
    trained_again = {name for name in set().union(*saes)
                     if len({each.get(name) for each in saes}) > 1}  # fmt: skip
    kept = rows["autoencoder"].isin({*trained_again, ""}) | (rows["preset"] == presets[0])
    kept |= ~rows["preset"].isin(PRESETS)  # of these it is not known what they share
    return rows[kept].to_dict("records")


def found_on(page: Page) -> list[dict[str, str]]:
    """What a page's run says of the paper's claims, for the box under its title."""
    return [
        {"id": id, "title": known["title"], "found": found.replace("<br>", "; ")}
        for id, known in paper_claims().items()
        if known["tag"] != "ours" and (found := found_in_words(id, page.record["claims"]))
    ]


def found_in_words(id: str, findings: Iterable[Finding]) -> str:
    """The verdicts on one claim, counted for each autoencoder, or what else it is "counted by".

    How often the opposite was found is said of claims with a direction, and of runs with several
    trainings of an autoencoder in how many cases all of these agree.
    """
    by_name: dict[str, list[Finding]] = {}
    key = paper_claims()[id].get("counted by", "autoencoder")
    case = _CASE if key == "condition" else (*_CASE, "autoencoder", "against")
    for finding in (finding for finding in findings if finding["id"] == id):
        by_name.setdefault(finding[key] or "all together", []).append(finding)
    return "<br>".join(
        f"*{plain(name)}*: {verdicts_in_words([finding['verdict'] for finding in group])}"
        + _opposite(group, paper_claims()[id].get("direction"))
        + _agreement(group, by_case=case)
        for name, group in by_name.items()
    )


def _opposite(findings: list[Finding], direction: str | None) -> str:
    """How many intervals lie wholly on the other side of 0, if the claim has a direction."""
    end, sign = ("high", 1) if direction == "above" else ("low", -1)
    ends = [finding[end] for finding in findings if finding["verdict"] == "does not hold"]
    n = sum(value is not None and sign * value < 0 for value in ends)
    return f" (the opposite in {n})" if direction and n else ""


def _agreement(findings: list[Finding], *, by_case: Sequence[str]) -> str:
    """In how many cases that each preset (a training of the SAEs) can test all say the same."""
    cases: dict[str, dict[Any, str]] = {}
    for finding in findings:
        if finding["verdict"] != UNTESTED:
            case = str([finding.get(name) for name in by_case])
            cases.setdefault(case, {})[finding.get("preset")] = finding["verdict"]
    n = len({finding.get("preset") for finding in findings})
    whole = [set(verdicts.values()) for verdicts in cases.values() if len(verdicts) == n > 1]
    alike = sum(len(verdicts) == 1 for verdicts in whole)
    return f"; its {n} trainings agree in {alike} of {len(whole)} cases" if whole else ""
