"""Whether results on a concept's tokens can be trusted: the one place that all pages ask."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from torch import Tensor

from saerepgeo_lib.activations.latents import encode, fit_on
from saerepgeo_lib.activations.prompts import names_in
from saerepgeo_lib.activations.residual_stream import FEW, MASSIVE, times_median
from saerepgeo_lib.activations.sae_config import same_place
from saerepgeo_lib.activations.saes import check_label
from saerepgeo_lib.activations.token_activations import FEWEST, TokenActivations
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.stats.claims import UNTESTED, Claim
from saerepgeo_lib.stats.words import span
from saerepgeo_lib.text import code, plain

logger = logging.getLogger(__name__)
T = TypeVar("T")
CAREFUL = 0.15  # FVU above which results are to be read with care
UNFIT = 1.0  # FVU from which nothing is judged: the mean of the tokens does as well
COLUMNS = ("concept", "tokens", "autoencoder", "FVU", "L0", "trained at", "reads at")
_TURNED = (
    "The tokens with massive activations decide: with them the verdict is another; read at a hook "
    "where no token has them."
)
_OVER_ALL = ("case1-stratified",)  # of every SAE together; `autoencoder` is where it is weakest


@dataclass(frozen=True)
class Doubt:
    """Why results are not to be trusted, as a sentence that says what to do.

    An empty field concerns every concept, every SAE, or all tokens.
    """

    concept: str
    autoencoder: str
    tokens: str
    reason: str

    def concerns(self, concept: str, autoencoder: str, tokens: str) -> bool:
        """Whether results of that case rest on what is in doubt; an empty field pools all."""
        mine, theirs = (self.concept, self.autoencoder, self.tokens), (concept, autoencoder, tokens)
        return all(a == b or "" in (a, b) for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True, repr=False, eq=False)
class Trust:
    """Fit and hook of each autoencoder on the tokens looked at, and what is in doubt (`trust_in`).

    `table` has a row per concept, kind of tokens and autoencoder: FVU, L0, trained at, reads at.
    `anyway` are the SAEs that are judged in spite of doubt, `massive` sentences on tokens with
    massive activations.
    """

    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    sparse: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    anyway: tuple[str, ...] = ()
    massive: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, rows: Sequence[dict[Any, Any]], sparse: Iterable[str], anyway: Sequence[str] = (),
        massive: Iterable[str] = (), doubts: Iterable[Doubt] = (),
    ) -> "Trust":  # fmt: skip
        """From rows of the table, with further doubts; autoencoders in `sparse` are judged."""
        rows = [{"trained at": "", "reads at": "", **row} for row in rows]
        labels = tuple(sparse)
        for label in anyway:
            choose("SAE", label, labels)
        judged = [row for row in rows if row["autoencoder"] in labels]
        doubts = dict.fromkeys([*doubts, *_doubts(judged)])
        table = pd.DataFrame(rows, columns=COLUMNS)
        return cls(table, labels, tuple(doubts), tuple(anyway), tuple(massive))

    def reason(self, *, concept: str = "", autoencoder: str = "", tokens: str = "") -> str:
        """Why results of a case are withheld; empty if they are not."""
        case = (concept, autoencoder, tokens)
        standing = (doubt for doubt in self.doubts if not self._is_overruled(doubt))
        return next((doubt.reason for doubt in standing if doubt.concerns(*case)), "")

    def withheld(self, claims: Iterable[Claim], whole: Iterable[Claim] = ()) -> list[Claim]:
        """The claims; those that cannot be trusted without numbers and verdict, and with why.

        They rest on what is in doubt, or have another verdict among `whole`: the findings with the
        massive tokens that were left out.
        """
        with_massive = {_case(claim): claim.verdict for claim in whole}
        judged = []
        for claim in claims:
            label = "" if claim.id in _OVER_ALL else claim.autoencoder
            why = self.reason(concept=claim.concept, autoencoder=label, tokens=claim.tokens)
            if _turns(claim.verdict, with_massive.get(_case(claim))):
                why = why or _TURNED
            if why:
                claim = replace(
                    claim, value=np.nan, low=np.nan, high=np.nan, p=np.nan,
                    verdict=UNTESTED, reason=why,
                )  # fmt: skip
            judged.append(claim)
        return judged

    def withheld_outcomes(
        self, compared: pd.DataFrame, whole: Iterable[pd.DataFrame] = ()
    ) -> pd.DataFrame:
        """Case 2's table (see `case2_verdict.compare_spaces`) without outcomes as in `withheld`."""
        keys = ["concept", "tokens", "SAE", "measure", "kind"]
        rows = [row for table in whole for row in table.to_dict("records")]
        with_massive = {tuple(row[key] for key in keys): row["outcome"] for row in rows}
        why = []
        for row in compared.to_dict("records"):
            concept, tokens, sae = (row[key] for key in keys[:3])
            doubt = self.reason(concept=concept, autoencoder=sae, tokens=tokens)
            turns = _turns(row["outcome"], with_massive.get(tuple(row[key] for key in keys)))
            why.append(doubt or _TURNED * turns)
        outcomes, notes = compared["outcome"], compared["note"]
        return compared.assign(
            outcome=["cannot be tested" if w else o for w, o in zip(why, outcomes, strict=True)],
            note=[w or note for w, note in zip(why, notes, strict=True)],
        )

    @property
    def poor(self) -> str:
        """Where the fit is poor, but not so poor that nothing is judged; empty if nowhere."""
        fit = self.table[self.table["autoencoder"].isin(self.sparse)]
        fit = fit[(fit["FVU"] > CAREFUL) & (fit["FVU"] < UNFIT)]
        if fit.empty:
            return ""
        where = plain("; ".join(
            f"{name} on {tokens} tokens of {', '.join(rows['concept'])} (FVU {span(rows['FVU'])})"
            for (name, tokens), rows in fit.groupby(["autoencoder", "tokens"], sort=False)
        ))  # fmt: skip
        return f"**Read with care**, the fit here is poorer than an FVU of {CAREFUL}: {where}."

    @property
    def sentences(self) -> str:
        """What a result's `repr` ends with: the largest FVU, then a line for each doubt."""
        judged = self.table.loc[self.table["autoencoder"].isin(self.sparse), "FVU"]
        fit = f"; FVU up to {judged.max(skipna=False):.2f}" if len(judged) else ""
        reasons = (*self.massive, *(doubt.reason for doubt in self.doubts))
        return fit + "".join(dict.fromkeys(f"\n{reason}" for reason in reasons))

    @property
    def doubted(self) -> str:
        """What is in doubt (Markdown), for pages without a choice; empty if nothing is."""
        said = [f"- {plain(reason)}" for reason in dict.fromkeys(d.reason for d in self.doubts)]
        return "\n".join(["**Not to be trusted**, and not judged:\n", *said, "\n"]) if said else ""

    @property
    def text(self) -> str:
        """The notice for a page (Markdown)."""
        lines = [f"**Massive activations**: {plain(sentence)}\n" for sentence in self.massive]
        for overruled in (False, True):
            mine = [d for d in self.doubts if self._is_overruled(d) == overruled]
            labels = ",".join(dict.fromkeys(d.autoencoder for d in mine if d.autoencoder))
            if mine and overruled:
                lines.append(
                    f"**Judged in spite of doubt**, since `judge_anyway` names {plain(labels)}:\n"
                )
            elif mine:
                lines.append("**Withheld** are claims that rest on the following:\n")
            lines += [*dict.fromkeys(f"- {plain(doubt.reason)}" for doubt in mine)] + [""] * bool(
                mine
            )
            if labels and not overruled:
                setting = code(f'judge_anyway = "{labels}"')
                lines.append(f"To see them all the same, set {setting}.\n")
        share = f"{100 * (1 - CAREFUL):.0f} %"
        fine = f"Every SAE explains at least {share} of these tokens' variance."
        return "\n".join([*lines, self.poor or fine * (not self.doubts)])

    def _is_overruled(self, doubt: Doubt) -> bool:
        return doubt.autoencoder in self.anyway


def trust_in(
    acts: Iterable[TokenActivations], *, saes: Mapping[str, Any] | None = None,
    judge_anyway: str | Sequence[str] = (),
) -> Trust:  # fmt: skip
    """Whether results on these tokens can be trusted.

    The SAEs are those of the tokens' source, or `saes` by label. Nothing is said of an SAE

    - on tokens where its FVU is 1 or more, or no number: their mean reconstructs them as well;
    - on all tokens of a concept, if that is so of its entity's tokens, which are among them and
      make the concept;
    - that reads at another hook than it was trained at,

    unless `judge_anyway` names it (labels; a text separates them by commas). Nulls are not judged:
    a random encoder is meant to fit badly. Raises UserError for unknown labels.
    """
    rows: list[dict[str, Any]] = []
    sparse: dict[str, None] = {}
    massive: list[str] = []
    copies: list[Doubt] = []
    for a in acts:
        massive += _on_massive(a)
        copies += _on_copies(a)
        known = dict(getattr(a.source, "saes", {}) if saes is None else saes)
        for label in known:
            check_label(label)
        nulls = getattr(a.source, "not_sparse", ())
        sparse |= {label: None for label in known if label not in nulls}
        rows += [
            {"concept": a.concept.name if a.concept else "tokens", "tokens": where,
             "autoencoder": label, **_fit(sae, part.x),
             "trained at": str(sae.cfg.metadata.hook_name or ""),
             "reads at": str(getattr(a.source, "hook", ""))}
            for where, part in a.by_position.items() for label, sae in known.items()
        ]  # fmt: skip
    anyway = names_in(judge_anyway) if isinstance(judge_anyway, str) else judge_anyway
    return Trust.of(rows, sparse, anyway, massive, copies)


def with_massive(
    acts: Iterable[TokenActivations], find: Callable[[list[TokenActivations]], Iterable[T]]
) -> list[T]:
    """What `find` finds with the massive tokens that were left out of some of these activations.

    Nothing if none were, or if with them nothing can be computed (`find` raises a UserError): then
    no verdict turns.
    """
    acts = list(acts)
    whole = [a if a.whole is None else a.whole for a in acts]
    try:
        return list(find(whole)) if any(a.whole for a in acts) else []
    except UserError as error:
        logger.info("with massive activations there are no findings: %s", error)
        return []


def _case(claim: Claim) -> tuple[Any, ...]:
    """What distinguishes a finding from the others of a page."""
    where = ("", "") if claim.id in _OVER_ALL else (claim.autoencoder, claim.against)
    return (claim.id, claim.statistic, claim.concept, claim.tokens, *where, claim.condition,
            claim.dose)  # fmt: skip


def _turns(verdict: str, other: str | None) -> bool:
    """Whether another verdict contradicts this one: both were tested, and they differ."""
    tested = not any(str(each).startswith("cannot be tested") for each in (verdict, other))
    return other is not None and tested and verdict != other


def _on_massive(acts: TokenActivations) -> Iterator[str]:
    """What is to be said of tokens with massive activations, if there are any."""
    named = acts.massive_tokens
    whole = acts if acts.whole is None else acts.whole
    crowded = (times_median(whole.x) > MASSIVE).sum() > FEW * len(whole)
    for where, part in acts.by_position.items() if acts.massive == "leave out" else ():
        n = int((times_median(part.x) > MASSIVE).sum())
        if n > FEW * len(part) or (n and crowded):
            yield (
                f"{n} of {len(part)} {where} tokens of "
                f"{acts.concept.name if acts.concept else 'these'} lie more than {MASSIVE:g} "
                "times as far from the median as the median token: too many to be exceptions, "
                "so they are kept; means and lengths are those of two kinds of tokens."
            )
    if named is None or named.empty:
        return
    rows = [row for _, row in named.nlargest(3, "times the median").iterrows()]
    which = "; ".join(
        f"{row['token'] or row['position']} in \"{row['prompt']}\" ({row['times the median']:.0f})"
        for row in rows
    ) + "; ..." * (len(named) > len(rows))  # fmt: skip
    left = acts.whole is not None
    lost = f" Of {', '.join(acts.lost_entities)} no token is left." if acts.lost_entities else ""
    yield (
        f"{len(named)} of {len(acts.whole if acts.whole is not None else acts)} tokens of "
        f"{acts.concept.name if acts.concept else 'these'} have massive activations, more than "
        f"{MASSIVE:g} times as far from the median (of all, or of entities) as the median token: "
        f"{which}. "
        + ("They are left out of every scale, fit and cluster; verdicts are also computed with "
           "them, and withheld where they turn." if left else
           "They are kept, and decide every mean.") + lost
    )  # fmt: skip


def _on_copies(acts: TokenActivations) -> Iterator[Doubt]:
    """Whether the entities' tokens have seen too few different words for an interval."""
    part = acts.by_position.get("entity")
    if acts.concept is None or part is None:
        return
    if part.shared_contexts and len(np.unique(part.context)) < FEWEST:
        yield Doubt(acts.concept.name, "", "entity", part.shared_contexts)


def _fit(sae: Any, x: Tensor) -> dict[str, float]:
    """FVU and L0; of tokens that do not vary the FVU is not a number."""
    if (x == x[0]).all():
        return {"FVU": np.nan, "L0": encode(sae, x).l0}
    return fit_on(sae, x, massive="keep")  # what is massive was left out before, or is wanted


def _doubts(rows: Sequence[Mapping[Any, Any]]) -> Iterator[Doubt]:
    for row in rows:
        sae, trained, reads = row["autoencoder"], row["trained at"], row["reads at"]
        if trained and reads and not same_place(trained, reads):
            yield Doubt(
                "", sae, "",
                f"{sae} was trained at {trained}, but reads at {reads}, where its latents mean "
                "something else; let it read where it was trained.",
            )  # fmt: skip
    for row in rows:
        sae, fvu = row["autoencoder"], row["FVU"]
        concept, tokens = row["concept"], row["tokens"]
        if np.isnan(fvu):
            yield Doubt(
                concept, sae, tokens,
                f"The fit of {sae} to the {tokens} tokens of {concept} is undefined: they are "
                "all alike, or no finite numbers; take prompts in which they differ.",
            )  # fmt: skip
        elif not fvu < UNFIT:
            yield Doubt(
                concept, sae, "" if tokens == "entity" else tokens,
                f"{sae} does not fit the {tokens} tokens of {concept}: it leaves {fvu:.2f} of "
                "their variance unexplained (FVU), where their mean leaves 1; take an SAE that was "
                "trained on such tokens.",
            )  # fmt: skip
