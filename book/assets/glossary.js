// Marks the first use of each glossary term on a page. Its definition shows on pointing, on focus, and
// on the first tap; a second tap, or a click, leads to the glossary.
document.addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector("article.bd-article");
  if (!article || typeof companionTerms === "undefined" || document.querySelector("dl.glossary")) return;

  const root = document.documentElement.dataset.content_root || "./";
  const anchor = (term) => {
    const id = term.replace(/[^A-Za-z0-9._]+/g, "-").replace(/^-+|-+$/g, "");
    return `${root}book/glossary.html#term-${id}`;
  };
  const escaped = (term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const open = new Map(Object.keys(companionTerms).map((term) => {
    const plural = /[a-z]$/.test(term) ? "s?" : "";
    const flags = term === term.toLowerCase() ? "i" : "";
    return [term, new RegExp(`(?<![\\w*-])${escaped(term)}${plural}(?![\\w*-])`, flags)];
  }));

  const tip = document.createElement("div");
  tip.id = "glossary-tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);

  let shown = null;
  let leaving = 0;
  const hide = () => {
    tip.hidden = true;
    shown?.removeAttribute("aria-describedby");
    shown = null;
  };
  const stay = () => clearTimeout(leaving);
  const leave = () => { stay(); leaving = setTimeout(hide, 200); };
  const show = (link) => {
    stay();
    hide();
    shown = link;
    tip.textContent = companionTerms[link.dataset.term];
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    const place = link.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(place.left, width - tip.offsetWidth - 8)) + scrollX}px`;
    tip.style.top = `${place.bottom + scrollY + 2}px`;
  };
  tip.addEventListener("mouseenter", stay);
  tip.addEventListener("mouseleave", leave);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("pointerdown", (event) => {
    if (event.target !== tip && !event.target.closest("a.glossary-term")) hide();
  });

  const mark = (word, term) => {
    const link = document.createElement("a");
    link.className = "glossary-term";
    link.href = anchor(term);
    link.dataset.term = term;
    link.textContent = word.data;
    word.replaceWith(link);
    let tapped = false;  // a first tap, which shows the definition and does not follow the link
    link.addEventListener("pointerdown", (event) => {
      tapped = event.pointerType === "touch" && shown !== link;
    });
    link.addEventListener("click", (event) => {
      if (!tapped) return;
      tapped = false;
      event.preventDefault();
      show(link);
    });
    link.addEventListener("mouseenter", () => show(link));
    link.addEventListener("focus", () => { if (!tapped) show(link); });
    link.addEventListener("mouseleave", leave);
    link.addEventListener("blur", leave);
  };

  // Running text that a reader meets: no code, formula, output, heading, or folded part.
  const OUTSIDE = "a, code, pre, button, h1, h2, h3, mjx-container, .math, script, summary, label, output, "
    + "details:not([open]), .page-header, .cell_output, .citation";
  const texts = [];
  for (const block of article.querySelectorAll("p, li, dd, figcaption")) {
    const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      if (!walker.currentNode.parentElement.closest(OUTSIDE)) texts.push(walker.currentNode);
    }
  }
  // Longest terms first, so that "latent tensor" is not taken for "latents".
  const terms = [...open.keys()].sort((a, b) => b.length - a.length);
  for (const first of new Set(texts)) {
    let text = first;
    while (text) {
      let best = null;
      for (const term of terms) {
        const found = open.has(term) && open.get(term).exec(text.data);
        if (found && (!best || found.index < best.found.index)) best = { term, found };
      }
      if (!best) break;
      open.delete(best.term);
      const word = text.splitText(best.found.index);
      text = word.splitText(best.found[0].length);
      mark(word, best.term);
    }
  }
});
