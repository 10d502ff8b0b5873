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

  // Draws the perturbation around middle grey, with its largest change stretched to 127. The caption has the factor.
  const difference = (clean, adversarial) => {
    const [width, height] = [clean.naturalWidth, clean.naturalHeight];
    const pixels = (image) => {
      const canvas = make("canvas", { width, height });
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      return context.getImageData(0, 0, width, height);
    };
    const [before, after] = [pixels(clean), pixels(adversarial)];
    let most = 0;
    const changes = new Int16Array(before.data.length);
    before.data.forEach((value, place) => {
      changes[place] = place % 4 === 3 ? 0 : after.data[place] - value;
      most = Math.max(most, Math.abs(changes[place]));
    });
    const times = most ? 127 / most : 1;
    changes.forEach((change, place) => {
      after.data[place] = place % 4 === 3 ? 255 : Math.round(128 + change * times);
    });
    const drawn = make("canvas", { width, height, className: clean.className, role: "img" });
    drawn.getContext("2d").putImageData(after, 0, 0);
    return [drawn, `difference x ${times.toFixed(1)}`];
  };

  const gallery = document.getElementById("gallery-data");
  if (gallery) {
    const { crafts, images } = JSON.parse(gallery.textContent);
    const cards = all(".card");
    let chosen = 0;

    const dialog = make("dialog");
    const shown = make("div");
    let at = 0;
    const enlarge = (place) => {
      at = (place + cards.length) % cards.length;
      const card = cards[at];
      const large = all(".shots button", card).filter((one) => !one.hidden).map((one) => {
        const picture = one.querySelector("img,canvas");
        const copy = picture.cloneNode();
        if (picture.tagName === "CANVAS") copy.getContext("2d").drawImage(picture, 0, 0);
        return make("figure", {}, copy, make("figcaption", { textContent: one.textContent }));
      });
      const [sources, attack] = crafts[chosen];
      const title = card.querySelector("h3").cloneNode(true);
      const table = card.querySelector("table").cloneNode(true);
      const box = make("div", { className: "box" }, table);
      const pictures = make("div", { className: "shots" }, ...large);
      shown.replaceChildren(title, make("p", { textContent: `${attack} on ${sources}` }), pictures, box);
      if (!dialog.open) dialog.showModal();
    };
    const button = (textContent, does) => {
      const made = make("button", { type: "button", textContent });
      made.addEventListener("click", does);
      return made;
    };
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) enlarge(at + step);
    });
    dialog.append(shown, make("div", { className: "bar" },
      button("Previous", () => enlarge(at - 1)), button("Next", () => enlarge(at + 1)),
      button("Close", () => dialog.close())));
    document.body.append(dialog);

    const drawDifference = async (card, place) => {
      const old = card.querySelector(".difference");
      if (old) old.remove();
      const [clean, adversarial] = all(".shots button", card).filter((one) => !one.hidden);
      if (!adversarial) return;
      const pictures = [clean, adversarial].map((one) => one.querySelector("img"));
      await Promise.all(pictures.map((one) => one.decode()));
      if (place !== chosen) return;
      const [canvas, caption] = difference(...pictures);
      canvas.setAttribute("aria-label", `${caption}: ${pictures[1].alt}`);
      const holder = make("button", { type: "button", className: "difference" }, canvas,
        make("span", { textContent: caption }));
      adversarial.after(holder);
    };
    const show = (place) => {
      chosen = place;
      return Promise.all(cards.map((card, number) => {
        const rows = (images[number] || {})[place] || [];
        card.querySelector("tbody").replaceChildren(...rows.map((cells) => make("tr", {},
          ...cells.map((one) => make("td", { textContent: one })))));
        all("[data-craft]", card).forEach((one) => { one.hidden = one.dataset.craft !== String(place); });
        return drawDifference(card, place);
      }));
    };
    cards.forEach((card, place) => card.querySelector(".shots").addEventListener("click", (event) => {
      if (event.target.closest("button")) enlarge(place);
    }));

    // Sources and attack are chosen once, for all cards.
    const options = (values) => values.map((one) => make("option", { value: one, textContent: one }));
    const sources = make("select", {}, ...options([...new Set(crafts.map(([one]) => one))]));
    const attack = make("select");
    const offer = () => {
      const before = attack.value;
      const here = crafts.filter(([one]) => one === sources.value).map(([, one]) => one);
      attack.replaceChildren(...options(here));
      if (here.includes(before)) attack.value = before;
    };
    const choose = () => show(crafts.findIndex(([one, other]) => one === sources.value && other === attack.value));
    sources.addEventListener("change", () => { offer(); choose(); });
    attack.addEventListener("change", choose);
    offer();
    if (crafts.length > 1) {
      document.getElementById("gallery-choice").replaceChildren(
        make("label", {}, "Sources: ", sources), make("label", {}, "Attack: ", attack));
    }
    show(0);
  }
  document.documentElement.dataset.ready = "yes";
})();
