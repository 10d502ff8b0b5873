"use strict";
(() => {
  const all = (selector, inside = document) => Array.from(inside.querySelectorAll(selector));
  const make = (kind, properties = {}, ...inside) => {
    const made = Object.assign(document.createElement(kind), properties);
    made.append(...inside);
    return made;
  };
  const number = (text) => {
    const found = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(found) ? null : found;
  };

  // Numbers sort by value and words by language; missing values come last in both directions.
  const sort = (table, column, down) => {
    const body = table.tBodies[0];
    const lines = Array.from(body.rows).map((row) => [row.cells[column].textContent.trim(), row]);
    const numeric = table.tHead.rows[0].cells[column].classList.contains("n");
    const words = new Intl.Collator("en", { numeric: true });
    lines.sort(([one], [other]) => {
      const [a, b] = numeric ? [number(one), number(other)] : [one, other];
      if (a === null || b === null) return (a === null) - (b === null);
      const order = numeric ? a - b : words.compare(a, b);
      return down ? -order : order;
    });
    body.append(...lines.map(([, row]) => row));
  };

  const sortable = (table) => {
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const button = make("button", { type: "button", textContent: head.textContent });
      head.dataset.name = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now ? now === "ascending" : head.classList.contains("n");
        all("th", table).forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next ? "descending" : "ascending");
        sort(table, column, next);
      });
    });
  };

  const filterable = (table, box) => {
    const rows = Array.from(table.tBodies[0].rows);
    if (rows.length < 6) return;
    const count = make("span", { className: "note" });
    const input = make("input", { type: "search", placeholder: "words in the row", spellcheck: false });
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      rows.forEach((row) => {
        const line = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => line.includes(word));
        left += row.hidden ? 0 : 1;
      });
      count.textContent = wanted.length ? `${left} of ${rows.length} rows` : "";
      count.setAttribute("aria-live", "polite");
    });
    box.before(make("div", { className: "tools" }, make("label", {}, "Filter: ", input), count));
  };

  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const tell = (cell) => {
    if (!cell.dataset.tip) return hide();
    tip.textContent = cell.dataset.tip;
    tip.hidden = false;
    const at = cell.getBoundingClientRect();
    const left = Math.min(Math.max(4, at.left), window.innerWidth - tip.offsetWidth - 4);
    const below = at.bottom + 6 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? at.bottom + 6 : at.top - tip.offsetHeight - 6}px`;
  };

  // The tab key reaches one cell of a table; the arrow keys move from there.
  const walkable = (table) => {
    const cells = all("td[title]", table);
    cells.forEach((cell) => {
      cell.dataset.tip = cell.title;
      cell.removeAttribute("title");
      cell.tabIndex = -1;
      cell.setAttribute("aria-label", `${cell.textContent}: ${cell.dataset.tip}`);
    });
    if (cells.length) cells[0].tabIndex = 0;
    const over = (event) => {
      const cell = event.target.closest("td");
      if (cell) tell(cell);
    };
    table.addEventListener("mouseover", over);
    table.addEventListener("focusin", over);
    table.addEventListener("mouseleave", hide);
    table.addEventListener("focusout", hide);
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Escape") hide();
      if (!cell || !steps) return;
      const rows = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
      const row = rows[rows.indexOf(cell.parentElement) + steps[0]];
      const next = row && row.cells[cell.cellIndex + steps[1]];
      event.preventDefault();
      if (!next || !next.dataset.tip) return;
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  };

  all("div.table").forEach((holder) => {
    const table = holder.querySelector("table");
    sortable(table);
    filterable(table, holder.querySelector(".box"));
    walkable(table);
  });
  window.addEventListener("scroll", hide, { passive: true, capture: true });

  const answers = document.getElementById("gallery-data");
  if (answers) {
    const { crafts, images } = JSON.parse(answers.textContent);
    const dialog = make("dialog");
    const shown = make("div");
    const close = make("button", { type: "button", textContent: "Close" });
    close.addEventListener("click", () => dialog.close());
    dialog.append(shown, close);
    document.body.append(dialog);
    all(".card").forEach((card, place) => {
      all(".shots button", card).forEach((button) => button.addEventListener("click", () => {
        const image = button.querySelector("img").cloneNode();
        shown.replaceChildren(make("p", { textContent: image.alt }), image);
        dialog.showModal();
      }));
      const body = card.querySelector("tbody");
      const lines = images[place] || {};
      const choices = Object.keys(lines);
      const show = (craft) => {
        body.replaceChildren(...(lines[craft] || []).map(([target, clean, now, mark]) => make("tr", {},
          ...[target, clean, now, mark].map((one) => make("td", { textContent: one })))));
        all("[data-craft]", card).forEach((one) => {
          one.hidden = one.dataset.craft !== String(craft);
        });
      };
      if (choices.length > 1) {
        const select = make("select", {}, ...choices.map((one) => make("option", { value: one, textContent: crafts[one] })));
        select.addEventListener("change", () => show(select.value));
        card.querySelector(".shots").before(make("label", { className: "tools" }, "Attack: ", select));
      }
      if (choices.length) show(choices[0]);
    });
  }
  document.documentElement.dataset.ready = "yes";
})();
