/* Marks the first use of each glossary term on a page, and shows its definition on pointing or focus. */
document.addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector("article.bd-article");
  if (!article || typeof companionTerms === "undefined" || document.querySelector("dl.glossary")) return;

  const root = document.documentElement.dataset.content_root || "./";
  const anchor = (term) => `${root}book/glossary.html#term-${term.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-+|-+$/g, "")}`;
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

  const hide = () => {
    tip.hidden = true;
    document.querySelector("[aria-describedby=glossary-tip]")?.removeAttribute("aria-describedby");
  };
  const show = (link) => {
    hide();
    tip.textContent = companionTerms[link.dataset.term];
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    const place = link.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(place.left, width - tip.offsetWidth - 8)) + scrollX}px`;
    tip.style.top = `${place.bottom + 6 + scrollY}px`;
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  const texts = [];
  for (const block of article.querySelectorAll("p, li, dd, figcaption")) {
    const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const inside = walker.currentNode.parentElement;
      if (!inside.closest("a, code, pre, button, h1, h2, h3, mjx-container, .math, script, summary, label")) {
        texts.push(walker.currentNode);
      }
    }
  }
  /* Longest terms first, so that "latent tensor" is not taken for "latents". */
  const terms = [...open.keys()].sort((a, b) => b.length - a.length);
  for (const first of [...new Set(texts)]) {
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
      const link = document.createElement("a");
      link.className = "glossary-term";
      link.href = anchor(best.term);
      link.dataset.term = best.term;
      link.textContent = word.data;
      word.replaceWith(link);
      for (const event of ["mouseenter", "focus"]) link.addEventListener(event, () => show(link));
      for (const event of ["mouseleave", "blur"]) link.addEventListener(event, hide);
    }
  }
});
