"use strict";
(() => {
  const engines = JSON.parse(document.getElementById("engines").textContent);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const tip = document.getElementById("tip");
  document.documentElement.classList.add("js");

  // An engine pointed at anywhere is shown everywhere.
  const marks = all(".picture .mark");
  const rows = all("tr[data-line]");
  const of = (element) => Number(element.closest("[data-line]").dataset.line);
  const light = (index) => {
    for (const element of [...marks, ...rows]) element.classList.toggle("hot", index !== null && of(element) === index);
    for (const picture of all(".picture")) picture.classList.toggle("focus", index !== null && picture.querySelector(".hot") !== null);
  };
  const say = (element, x, y) => {
    const engine = engines[of(element)];
    const name = document.createElement("b"), figures = document.createElement("span"), own = document.createElement("span");
    name.textContent = engine.name;
    figures.textContent = engine.tip;
    own.textContent = (element.getAttribute("aria-label") || "").replace(engine.name + ": ", "");
    tip.replaceChildren(name, own, figures);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
    tip.style.top = (y + 16 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 16) + "px";
  };
  const quiet = () => { tip.hidden = true; light(null); };
  for (const picture of all(".picture")) {
    const own = all(".mark", picture);
    own.forEach((mark, at) => {
      const title = mark.querySelector("title");
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
      mark.tabIndex = at === 0 ? 0 : -1;
      mark.addEventListener("pointermove", (event) => { light(of(mark)); say(mark, event.clientX, event.clientY); });
      mark.addEventListener("pointerdown", (event) => { light(of(mark)); say(mark, event.clientX, event.clientY); });
      mark.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") quiet(); });
      mark.addEventListener("focus", () => {
        const box = mark.getBoundingClientRect();
        light(of(mark));
        if (mark.matches(":focus-visible")) say(mark, box.left + box.width / 2, box.bottom - 10);
      });
      mark.addEventListener("blur", quiet);
      mark.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
        if (event.key === "Escape") quiet();
        if (!step) return;
        event.preventDefault();
        const shown = own.filter((other) => !other.classList.contains("off") && !other.classList.contains("cut"));
        const next = shown[(shown.indexOf(mark) + step + shown.length) % shown.length];
        mark.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
    });
  }
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".picture .mark")) quiet(); });
  for (const row of rows) {
    row.addEventListener("pointerenter", () => light(of(row)));
    row.addEventListener("pointerleave", () => light(null));
  }

  // Sorting: a second press turns the order round; what has no figure stays last.
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table), body = table.tBodies[0];
    heads.forEach((head, column) => {
      if (!head.classList.contains("sorts")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const value = (row) => row.cells[column].dataset.value;
        const numbers = [...body.rows].every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
        const before = head.getAttribute("aria-sort");
        const up = before ? before !== "ascending" : !numbers || column === 0 || /ms|MB|^p/.test(button.textContent);
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const order = (a, b) => (numbers ? Number(a) - Number(b) : a.localeCompare(b));
        const sorted = [...body.rows].sort((one, other) => {
          const [a, b] = [value(one), value(other)];
          if (a === "" || b === "") return (a === "") - (b === "");
          return up ? order(a, b) : order(b, a);
        });
        body.append(...sorted);
      });
    });
  }

  // Filters: what is left out disappears from the table and from every figure.
  const form = document.querySelector(".filters");
  const filter = () => {
    const field = (name) => form.elements[name];
    const kept = engines.map((engine) =>
      ["model", "runtime"].every((name) => !field(name) || !field(name).value || engine[name] === field(name).value) &&
      engine.name.toLowerCase().includes(field("text").value.trim().toLowerCase()) &&
      (!field("ships").checked || engine.ships));
    for (const element of [...marks, ...rows]) element.classList.toggle("off", !kept[of(element)]);
    const count = kept.filter(Boolean).length;
    form.querySelector("output").textContent = count === engines.length ? "" : count + " of " + engines.length + " engines";
  };
  if (form) {
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
  }

  // Limits on the axes of the parallel coordinates: dragged, or typed.
  const limits = {};
  const inputs = all("[data-limit]");
  const pictures = all('[data-picture="parallel"]');
  const scale = (axis) => {
    const { at, top, bottom, low, high, more } = Object.fromEntries(
      Object.entries(axis.dataset).map(([name, value]) => [name, Number(value)]));
    const log = axis.dataset.log === "1";
    const part = (value) => (log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
    return {
      at, top, bottom,
      y: (value) => { const p = Math.min(1, Math.max(0, part(value))); return more ? bottom - (bottom - top) * p : top + (bottom - top) * p; },
      value: (y) => {
        const p = Math.min(1, Math.max(0, more ? (bottom - y) / (bottom - top) : (y - top) / (bottom - top)));
        return log ? low * Math.pow(high / low, p) : low + (high - low) * p;
      },
    };
  };
  const apply = () => {
    const beyond = engines.map((engine) => Object.entries(limits).some(([name, [low, high]]) => {
      const value = engine.figures[name];
      return value === null || (low !== null && value < low) || (high !== null && value > high);
    }));
    for (const mark of all('[data-picture="parallel"] .mark')) mark.classList.toggle("cut", beyond[of(mark)]);
    for (const row of all("#ranking tr[data-line]")) row.classList.toggle("beyond", beyond[of(row)]);
    const within = document.querySelector(".limits output");
    const kept = beyond.filter((out) => !out).length;
    if (within) within.textContent = Object.keys(limits).length ? kept + " of " + engines.length + " engines within" : "";
    for (const axis of all(".dimension")) {
      const own = limits[axis.dataset.name], place = scale(axis), box = axis.querySelector(".chosen");
      if (!box) continue;
      const ends = own ? [own[0] === null ? null : place.y(own[0]), own[1] === null ? null : place.y(own[1])] : [];
      const more = axis.dataset.more === "1";
      const [first, last] = more ? [ends[1] ?? place.top, ends[0] ?? place.bottom] : [ends[0] ?? place.top, ends[1] ?? place.bottom];
      box.setAttribute("y", Math.min(first, last));
      box.setAttribute("height", own ? Math.max(2, Math.abs(last - first)) : 0);
    }
    for (const input of inputs) {
      const value = limits[input.dataset.limit]?.[input.dataset.end === "low" ? 0 : 1] ?? null;
      if (document.activeElement !== input) input.value = value === null ? "" : Number(value.toPrecision(4));
    }
  };
  const set = (name, low, high) => {
    if (low === null && high === null) delete limits[name];
    else limits[name] = [low, high];
    apply();
  };
  const make = (parent, kind, sizes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    element.setAttribute("class", kind);
    for (const [name, value] of Object.entries(sizes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  };
  for (const picture of pictures) {
    for (const axis of all(".dimension", picture)) {
      const place = scale(axis), name = axis.dataset.name;
      make(axis, "chosen", { x: place.at - 6, width: 12, y: place.top, height: 0 });
      const handle = make(axis, "handle", { x: place.at - 12, width: 24, y: place.top - 6, height: place.bottom - place.top + 12 });
      const at = (event) => {
        const box = picture.getBoundingClientRect(), view = picture.viewBox.baseVal;
        return ((event.clientY - box.top) * view.height) / box.height;
      };
      let start = null;
      handle.addEventListener("pointerdown", (event) => { start = at(event); handle.setPointerCapture(event.pointerId); });
      handle.addEventListener("pointermove", (event) => {
        if (start === null || Math.abs(at(event) - start) < 3) return;
        const ends = [place.value(start), place.value(at(event))].sort((a, b) => a - b);
        set(name, ends[0], ends[1]);
      });
      handle.addEventListener("pointerup", (event) => {
        if (start !== null && Math.abs(at(event) - start) < 3) set(name, null, null);
        start = null;
      });
      handle.addEventListener("pointercancel", () => { start = null; });
    }
  }
  for (const input of inputs) {
    input.addEventListener("input", () => {
      const own = (end) => {
        const text = inputs.find((other) => other.dataset.limit === input.dataset.limit && other.dataset.end === end).value;
        return text === "" ? null : Number(text);
      };
      set(input.dataset.limit, own("low"), own("high"));
    });
  }
  const clear = document.querySelector(".limits button");
  if (clear) clear.addEventListener("click", () => { for (const name of Object.keys(limits)) delete limits[name]; apply(); });
})();
