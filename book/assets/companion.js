// What a reader with a keyboard or a screen reader needs, and the tools leave out.
(() => {
  const each = (selector, act) => document.querySelectorAll(selector).forEach(act);

  // A corner cell heads nothing: it is no header. The other headers say what they head.
  function headTables() {
    each("table thead th", (head) => {
      if (head.textContent.trim()) {
        head.scope = head.colSpan > 1 ? "colgroup" : "col";
        return;
      }
      const corner = document.createElement("td");
      for (const { name, value } of head.attributes) corner.setAttribute(name, value);
      corner.append(...head.childNodes);
      head.replaceWith(corner);
    });
    each("table tbody th", (head) => { head.scope = "row"; });
  }

  // What is wider than its box scrolls by the arrow keys too. Names come from the caption if any.
  const BOXES = "div.cell_output, div.cell_output .output, div.pst-scrollable-table-container, "
    + "div.math, mjx-container[display='true'], div.highlight pre";
  function reachScrollable() {
    each(BOXES, (box) => {
      const scrolls = /auto|scroll/.test(getComputedStyle(box).overflowX)
        && box.scrollWidth > box.clientWidth;
      if (scrolls && box.tabIndex < 0) {
        box.tabIndex = 0;
        if (!box.hasAttribute("role")) {
          box.setAttribute("role", "group");
          const caption = box.querySelector("caption");
          box.setAttribute("aria-label", caption ? caption.textContent.trim() : "Scrolls sideways");
          box.dataset.reached = "named";
        } else {
          box.dataset.reached = "";
        }
      } else if (!scrolls && "reached" in box.dataset) {
        box.removeAttribute("tabindex");
        if (box.dataset.reached) ["role", "aria-label"].forEach((name) => box.removeAttribute(name));
        delete box.dataset.reached;
      }
    });
  }

  function nameRoles() {
    // ARIA withdrew this role; within a list an entry is an item.
    each("[role='doc-biblioentry']", (entry) => entry.setAttribute("role", "listitem"));
    // The book's name, above the contents, stands in no landmark.
    each(".sidebar-primary-item:has(> .navbar-brand)", (item) => {
      item.setAttribute("role", "navigation");
      item.setAttribute("aria-label", "Book");
    });
  }

  // Print shows what a click would have shown.
  addEventListener("beforeprint", () => each("details:not([open])", (details) => {
    details.open = true;
    details.dataset.closed = "";
  }));
  addEventListener("afterprint", () => each("details[data-closed]", (details) => {
    details.open = false;
    delete details.dataset.closed;
  }));

  addEventListener("DOMContentLoaded", () => {
    headTables();
    nameRoles();
    reachScrollable();
  });
  addEventListener("load", () => {
    (window.MathJax?.startup?.promise ?? Promise.resolve()).then(reachScrollable);
    // Windows, print and folded parts: whatever changes a box's size.
    const sizes = new ResizeObserver(reachScrollable);
    each(`article, ${BOXES}`, (box) => sizes.observe(box));
  });
})();
