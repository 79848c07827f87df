"use strict";
(() => {
const units = JSON.parse(document.getElementById("data").textContent);
const NAME = 0, EXTENSION = 1, FACTS = 2, RUN = 3, START = 4, SECONDS = 5, SLOT = 6;
const chart = document.getElementById("chart");
for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
if (chart !== null) timeline(chart);
const table = document.getElementById("units");
if (table !== null) sortable(table);

function timeline(chart) {
  const canvas = document.getElementById("canvas");
  const readout = document.getElementById("readout");
  const bars = new Map();
  for (const bar of chart.querySelectorAll("rect[data-i]")) bars.set(Number(bar.dataset.i), bar);
  const several = new Set(units.map((unit) => unit[RUN])).size > 1;
  let zoom = 1, chosen = -1;

  function fitLabels() {
    // A label's box is that of its text; its room is what its bar is wide.
    const whole = canvas.clientWidth / 100;
    for (const label of canvas.querySelectorAll(".label")) {
      label.classList.toggle("narrow", parseFloat(label.getAttribute("width")) * whole < 56);
    }
    canvas.classList.add("fitted");
  }

  function setZoom(value, middle) {
    const before = canvas.clientWidth;
    const at = middle ?? chart.scrollLeft + chart.clientWidth / 2;
    zoom = Math.min(64, Math.max(1, value));
    canvas.style.width = `${100 * zoom}%`;
    chart.scrollLeft = at * canvas.clientWidth / before - chart.clientWidth / 2;
    document.getElementById("zoom-out").disabled = zoom === 1;
    document.getElementById("zoom-fit").disabled = zoom === 1;
    document.getElementById("zoom-in").disabled = zoom === 64;
    fitLabels();
  }

  function choose(at, follow) {
    bars.get(chosen)?.classList.remove("chosen");
    chosen = at;
    const bar = bars.get(at), unit = units[at];
    document.getElementById("nothing").hidden = bar !== undefined;
    if (bar === undefined) { readout.textContent = ""; return; }
    bar.classList.add("chosen");
    const strong = document.createElement("strong");
    strong.textContent = unit[NAME];
    const where = [unit[EXTENSION], several ? `run ${unit[RUN]}` : ""].filter(Boolean).join(", ");
    readout.replaceChildren(strong, ` ${where ? `(${where}) ` : ""}${unit[FACTS]}`);
    if (follow) {
      const box = bar.getBoundingClientRect(), frame = chart.getBoundingClientRect();
      if (box.left < frame.left || box.right > frame.right) chart.scrollLeft += box.left - frame.left - 40;
    }
  }

  // The unit in another slot that is nearest in time.
  function beside(from, step) {
    const unit = units[from], middle = unit[START] + unit[SECONDS] / 2;
    const slots = units.map((other, at) => [other, at]).filter(([other]) => other[RUN] === unit[RUN] && (other[SLOT] - unit[SLOT]) * step > 0);
    const nearest = Math.min(...slots.map(([other]) => Math.abs(other[SLOT] - unit[SLOT])));
    let found = from, best = Infinity;
    for (const [other, at] of slots) {
      if (Math.abs(other[SLOT] - unit[SLOT]) !== nearest) continue;
      const distance = Math.abs(other[START] + other[SECONDS] / 2 - middle);
      if (distance < best) { best = distance; found = at; }
    }
    return found;
  }

  chart.addEventListener("pointerover", (event) => {
    const at = event.target.dataset?.i;
    if (at !== undefined) choose(Number(at), false);
  });
  chart.addEventListener("click", (event) => {
    const at = event.target.dataset?.i;
    if (at !== undefined) choose(Number(at), false);
  });
  chart.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = units.length - 1;
    const to = {
      ArrowRight: () => Math.min(last, chosen + 1),
      ArrowLeft: () => Math.max(0, chosen - 1),
      ArrowDown: () => (chosen < 0 ? 0 : beside(chosen, 1)),
      ArrowUp: () => (chosen < 0 ? 0 : beside(chosen, -1)),
      Home: () => 0,
      End: () => last,
      Escape: () => -1,
    }[event.key];
    if (to !== undefined && units.length) choose(to(), true);
    else if (event.key === "+" || event.key === "=") setZoom(zoom * 2);
    else if (event.key === "-") setZoom(zoom / 2);
    else return;
    event.preventDefault();
  });
  document.getElementById("zoom").hidden = false;
  document.getElementById("zoom-in").addEventListener("click", () => setZoom(zoom * 2));
  document.getElementById("zoom-out").addEventListener("click", () => setZoom(zoom / 2));
  document.getElementById("zoom-fit").addEventListener("click", () => setZoom(1));
  addEventListener("resize", fitLabels);
  setZoom(1);
}

function sortable(table) {
  const body = table.tBodies[0], rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent;
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numbers = head.classList.contains("n");
      // Numbers begin with the largest: that is what one looks for.
      const up = head.ariaSort ? head.ariaSort === "descending" : !numbers;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.ariaSort = up ? "ascending" : "descending";
      const keys = new Map(rows.map((row) => [row, numbers ? Number(value(row, at)) : value(row, at)]));
      rows.sort((a, b) => {
        const x = keys.get(a), y = keys.get(b);
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      });
      body.append(...rows);
    });
  });
  const search = document.getElementById("search"), found = document.getElementById("found");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const unit = units[Number(row.dataset.i)];
      row.hidden = wanted !== "" && !`${unit[NAME]} ${unit[EXTENSION]}`.toLowerCase().includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    found.textContent = wanted === "" ? "" : `${count} of ${rows.length}`;
  });
}
})();
