"""Whether results on a concept's tokens can be trusted: the one place that all pages ask."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from saerepgeo_lib.activations.latents import encode, fit_on
from saerepgeo_lib.activations.prompts import names_in
from saerepgeo_lib.activations.sae_config import same_place
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import choose
from saerepgeo_lib.stats.claims import Claim
from saerepgeo_lib.text import code, plain

CAREFUL = 0.15  # FVU above which results are to be read with care
UNFIT = 1.0  # FVU from which nothing is judged: the mean of the tokens does as well
COLUMNS = ("concept", "tokens", "autoencoder", "FVU", "L0", "trained at", "reads at")
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
    `anyway` are the SAEs that are judged in spite of doubt.
    """

    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    sparse: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    anyway: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, rows: Sequence[dict[Any, Any]], sparse: Iterable[str], anyway: Sequence[str] = ()
    ) -> "Trust":
        """From rows of the table; those of the autoencoders in `sparse` are judged."""
        rows = [{"trained at": "", "reads at": "", **row} for row in rows]
        labels = tuple(sparse)
        for label in anyway:
            choose("SAE", label, labels)
        doubts = dict.fromkeys(_doubts([row for row in rows if row["autoencoder"] in labels]))
        table = pd.DataFrame(rows, columns=COLUMNS)
        return cls(table, labels, tuple(doubts), tuple(anyway))

    def reason(self, *, concept: str = "", autoencoder: str = "", tokens: str = "") -> str:
        """Why results of a case are withheld; empty if they are not."""
        case = (concept, autoencoder, tokens)
        standing = (doubt for doubt in self.doubts if not self._is_overruled(doubt))
        return next((doubt.reason for doubt in standing if doubt.concerns(*case)), "")

    def withheld(self, claims: Iterable[Claim]) -> list[Claim]:
        """The claims; those that rest on what is in doubt without numbers, verdict and with why."""
        judged = []
        for claim in claims:
            label = "" if claim.id in _OVER_ALL else claim.autoencoder
            why = self.reason(concept=claim.concept, autoencoder=label, tokens=claim.tokens)
            if why:
                claim = replace(
                    claim, value=np.nan, low=np.nan, high=np.nan, p=np.nan,
                    verdict="cannot be tested here", reason=why,
                )  # fmt: skip
            judged.append(claim)
        return judged

    def withheld_outcomes(self, compared: pd.DataFrame) -> pd.DataFrame:
        """Case 2's table (see `case2_verdict.compare_spaces`) without outcomes in doubt."""
        cases = zip(compared["concept"], compared["SAE"], compared["tokens"], strict=True)
        why = [self.reason(concept=c, autoencoder=sae, tokens=t) for c, sae, t in cases]
        outcomes, notes = compared["outcome"], compared["note"]
        return compared.assign(
            outcome=["cannot be tested" if w else o for w, o in zip(why, outcomes, strict=True)],
            note=[w or note for w, note in zip(why, notes, strict=True)],
        )

    @property
    def poor(self) -> str:
        """Where the fit is poor, but not so poor that nothing is judged; empty if nowhere."""
        cases = [
            "{autoencoder} on {concept}, {tokens} tokens (FVU {FVU:.2f})".format_map(row)
            for row in self.table.to_dict("records")
            if row["autoencoder"] in self.sparse and CAREFUL < row["FVU"] < UNFIT
        ]
        if not cases:
            return ""
        where = plain("; ".join(cases))
        return f"**Read with care**, the fit here is poorer than an FVU of {CAREFUL}: {where}."

    @property
    def sentences(self) -> str:
        """What a result's `repr` ends with: the largest FVU, then a line for each doubt."""
        judged = self.table.loc[self.table["autoencoder"].isin(self.sparse), "FVU"]
        fit = f"; FVU up to {judged.max(skipna=False):.2f}" if len(judged) else ""
        return fit + "".join(dict.fromkeys(f"\n{doubt.reason}" for doubt in self.doubts))

    @property
    def doubted(self) -> str:
        """What is in doubt (Markdown), for pages without a choice; empty if nothing is."""
        said = [f"- {plain(reason)}" for reason in dict.fromkeys(d.reason for d in self.doubts)]
        return "\n".join(["**Not to be trusted**, and not judged:\n", *said, "\n"]) if said else ""

    @property
    def text(self) -> str:
        """The notice for a page (Markdown)."""
        lines = []
        for overruled in (False, True):
            mine = [d for d in self.doubts if self._is_overruled(d) == overruled]
            labels = ",".join(dict.fromkeys(d.autoencoder for d in mine if d.autoencoder))
            if mine and overruled:
                lines.append(
                    f"**Judged in spite of doubt**, since `judge_anyway` names {plain(labels)}:\n"
                )
            elif mine:
                lines.append("**Withheld**: numbers and verdicts of claims that rest on this.\n")
            lines += [*dict.fromkeys(f"- {plain(doubt.reason)}" for doubt in mine)] + [""] * bool(
                mine
            )
            if labels and not overruled:
                setting = code(f'judge_anyway = "{labels}"')
                lines.append(f"To see them all the same, set {setting}.\n")
        lines += [self.poor] * bool(self.poor)
        share = f"{100 * (1 - CAREFUL):.0f} %"
        return "\n".join(lines) or f"Every SAE explains at least {share} of these tokens' variance."

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
    for a in acts:
        known = dict(getattr(a.source, "saes", {}) if saes is None else saes)
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
    return Trust.of(rows, sparse, anyway)


def _fit(sae: Any, x: Tensor) -> dict[str, float]:
    """FVU and L0; of tokens that do not vary the FVU is not a number."""
    if (x == x[0]).all():
        return {"FVU": np.nan, "L0": encode(sae, x).l0}
    return fit_on(sae, x)


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
