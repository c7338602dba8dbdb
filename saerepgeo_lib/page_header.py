"""The box under a page's title: what it ran on, its time and memory, what can be fetched."""

from typing import Any

from saerepgeo_lib.claims import paper_claims
from saerepgeo_lib.ledger import found_in_words, labels_of
from saerepgeo_lib.pages import Page, plain
from saerepgeo_lib.repository import Repository


def page_header(page: Page, repository: Repository | None) -> str:
    """The box as Markdown, from the page's record; what no record states is left out or said so."""
    lines = [_subject(page.record), *_cost(page.record["run"]), _links(page, repository)]
    items = "".join(f"- {line}\n" for line in lines if line)
    return f":::{{div}} page-header\n{items}:::{_found(page)}"


def _found(page: Page) -> str:
    """What the run says of the paper's claims, for who reads no further; "" if of none."""
    lines = []
    for id, known in paper_claims().items():
        found = found_in_words(id, page.record["claims"], labels_of([page])).replace("<br>", "; ")
        if known["tag"] != "ours" and found:
            lines.append(f"- [{plain(known['title'])}](#claim-{id}): {found}\n")
    return f"\n\n:::{{admonition}} Found on this page\n{''.join(lines)}:::" if lines else ""


def with_header(text: str, header: str) -> str:
    """The text of a page's first cell with the box under its title."""
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{header}\n{rest}"


def _subject(record: dict[str, Any]) -> str:
    """Preset, its autoencoders and their hook, and concept; "" for a page without a preset."""
    values = record["parameters"]
    if "preset" not in values:
        return ""
    subject = record["numbers"].get("subject", {})
    saes = ", ".join(map(plain, subject.get("autoencoders", [])))
    hook = f" at `{subject['hook']}`" if "hook" in subject else ""
    parts = [f"`{values['preset']}`{f' ({saes}{hook})' if saes else ''}"]
    parts += [f"model `{values['model_name']}`"] if values.get("model_name") else []
    parts += [plain(values["concept"].replace(",", ", "))] if values.get("concept") else []
    return f"**Preset**: {'; '.join(parts)}"


def _cost(run: dict[str, Any]) -> list[str]:
    """Time and memory of the run that rendered the page."""
    stages = run["stages"].values()
    if not stages:
        return ["**Time and memory**: seconds; no model is loaded, and no stage was timed"]
    seconds = sum(stage["seconds"] for stage in stages)
    peak = max(stage["process_peak_mib"] for stage in stages)
    cost = (
        f"**Time and memory** of this run: {_duration(seconds)} in its timed stages, besides "
        f"imports; at most {_size(peak)} of main memory; device {run['device']}"
    )
    return [cost] if run["device"] == "cuda" else [cost, "**On a Colab GPU**: not measured"]


def _links(page: Page, repository: Repository | None) -> str:
    links = [
        f"[executed notebook]({page.downloads['notebook']})",
        f"[its record]({page.downloads['record']})",
    ]
    if repository is not None:
        place = f"{repository.url}/blob/{repository.branch}/notebooks/{page.name}.py"
        links.append(f"[source]({place})")
        on_colab = f"{repository.colab}/notebooks/{page.name}.ipynb"
        links.append(f"[open in Colab]({on_colab})")
    return "**Download**: " + " · ".join(links)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{max(rest, 1)} s"


def _size(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
