// Tables that sort and filter, and the pivot table.
"use strict";

const UNITS = { K: 1e3, M: 1e6, B: 1e9, T: 1e12, s: 1, min: 60, h: 3600, days: 86400, x: 1 };

/** Return what a cell sorts by: a number with its unit, or its text. */
function sortKey(text) {
  if (/^\d{4}-\d\d-\d\d/.test(text)) return text; // a date
  const found = text.match(/^[~+]?(-?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s*(days|min|[KMBTshx](?![a-z]))?/i);
  if (!found) return text.toLowerCase();
  const unit = found[2] ?? ""; // a model's name may be 350m or 1b
  return parseFloat(found[1].replaceAll(",", "")) * (UNITS[unit] ?? UNITS[unit.toUpperCase()] ?? 1);
}

/** Compare texts by their words and, where both have one, by their numbers: gpus-2 precedes gpus-16. */
function compareTexts(a, b) {
  const [as, bs] = [a, b].map((text) => text.split(/(\d*\.?\d+(?:e[+-]?\d+)?)/));
  for (let i = 0; i < Math.min(as.length, bs.length); i++) {
    const order = i % 2 ? as[i] - bs[i] : as[i].localeCompare(bs[i]);
    if (order) return order;
  }
  return as.length - bs.length;
}

function compareKeys(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : compareTexts(a, b);
  return typeof a === "number" ? -1 : 1;
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  const keyed = [...table.tBodies[0].rows].map((row) => [row.cells[column].textContent.trim(), row]);
  keyed.sort(([a], [b]) => {
    if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1); // empty cells last, either way
    return (descending ? -1 : 1) * compareKeys(sortKey(a), sortKey(b));
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

/** Return the place of the heading that a filter names: whole, by its beginning or by a part; -1 if none. */
function findColumn(name, heads) {
  const [wanted, ...known] = [name, ...heads].map((text) => text.toLowerCase().replace(/\s/g, ""));
  if (known.includes(wanted)) return known.indexOf(wanted); // Tokens/step, too, begins with tokens/s
  const place = known.findIndex((head) => head.startsWith(wanted));
  return place >= 0 ? place : known.findIndex((head) => head.includes(wanted));
}

const MARKS = /[*\u2020\u2070\u00b9\u00b2\u00b3\u2074-\u2079 ]+$/; // of the footnotes, as in "mini* ¹"

/** Return the test of a filter: each word occurs in the row, or `heading>number` holds. */
function filterOf(text, heads) {
  const tests = text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const found = word.match(/^([^<>=]+)(<=|>=|<|>|=)(.+)$/);
    const column = found ? findColumn(found[1], heads) : -1;
    if (column < 0) return (row) => row.textContent.toLowerCase().includes(word.toLowerCase());
    const wanted = sortKey(found[3]);
    return (row) => {
      const cell = row.cells[column].textContent.trim();
      if (!cell) return false;
      const order = found[2] === "=" && typeof wanted === "string" ? (cell.replace(MARKS, "").toLowerCase() === wanted ? 0 : 1) : compareKeys(sortKey(cell), wanted);
      return { "<": order < 0, ">": order > 0, "<=": order <= 0, ">=": order >= 0, "=": order === 0 }[found[2]];
    };
  });
  return (row) => tests.every((test) => test(row));
}

for (const table of document.querySelectorAll("table.data")) {
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  heads.forEach((head, column) => {
    const button = make("button", { type: "button", onclick: () => sortBy(table, column) }, names[column]);
    if (head.dataset.tip) button.setAttribute("aria-description", head.dataset.tip);
    head.replaceChildren(button);
  });
  const rows = table.tBodies[0].rows;
  if (rows.length < 4) continue;
  const tools = table.closest(".table").querySelector(".tools");
  const count = make("span", { role: "status" });
  const field = make("input", { type: "search", placeholder: "such as mini gpus>1", oninput: () => {
    const keep = filterOf(field.value, names);
    let shown = 0;
    for (const row of rows) shown += !(row.hidden = !keep(row));
    count.textContent = field.value ? `${shown} of ${rows.length} rows` : "";
  } });
  tools.append(make("label", {}, "Filter rows", field), count);
  tools.hidden = false;
}

// The pivot table, if anything was measured.
for (const box of document.querySelectorAll(".pivot")) {
  const measures = Object.entries(DATA.measures);
  const axes = ["model", "gpus", "trainer", "variant", "cluster", "seed"].filter((axis) => CELLS.some((cell) => axis in cell));
  const varied = axes.filter((axis) => distinct(DATA.speeds.map((row) => CELLS[row.cell][axis])).length > 1);
  const ways = { mean, lowest: (v) => Math.min(...v), highest: (v) => Math.max(...v), count: (v) => v.length };
  // A mean over variants or trainers says nothing of any of them: what is not a column is named in the rows.
  const apart = varied.filter((axis) => ["model", "gpus", "trainer", "variant"].includes(axis));
  const across = apart.includes("gpus") ? "gpus" : "trainer";
  const together = apart.length > 2 ? [apart.filter((axis) => axis !== across).join(", ")] : [];
  axes.unshift(...together);
  const rowsBy = together[0] ?? varied[0] ?? "model";
  const columnsBy = together.length ? across : varied[1] ?? axes.find((a) => a !== rowsBy);
  const chosen = { rows: rowsBy, columns: columnsBy, value: DATA.measures.mfu ? "mfu" : measures[0][0], way: "mean" };

  const inOrder = (keys) => distinct(keys).sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : 0));
  function drawPivot() {
    const rows = DATA.speeds.filter((row) => row[chosen.value] != null);
    const key = ({ cell }, axis) => {
      if (!together.includes(axis)) return CELLS[cell][axis];
      const named = axis.split(", ").filter((part) => part !== "variant" || CELLS[cell].variant !== "base");
      return named.map((part) => CELLS[cell][part]).join(", ");
    };
    const tops = inOrder(rows.map((row) => key(row, chosen.columns)));
    const sides = inOrder(rows.map((row) => key(row, chosen.rows)));
    const groups = groupBy(rows, (row) => JSON.stringify([key(row, chosen.rows), key(row, chosen.columns)]));
    const value = (side, top) => {
      const found = groups.get(JSON.stringify([side, top]));
      return found && ways[chosen.way](found.map((row) => row[chosen.value]));
    };
    const all = sides.flatMap((side) => tops.map((top) => value(side, top))).filter((v) => v != null);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const percent = DATA.measures[chosen.value].label.endsWith("(%)") && chosen.way !== "count";
    const head = make("tr", {}, make("th", { scope: "col" }, `${chosen.rows} \\ ${chosen.columns}`), ...tops.map((top) => make("th", { scope: "col", class: "number" }, `${top}`)));
    const body = sides.map((side) => make("tr", {}, make("th", { scope: "row", class: `${side}`.length > 24 ? "long" : null }, `${side}`), ...tops.map((top) => {
      const v = value(side, top);
      if (v == null) return make("td");
      const share = high > low ? (v - low) / (high - low) : 0;
      return make("td", { class: "number heat", style: `--share: ${share.toFixed(3)}` }, percent ? `${(100 * v).toFixed(1)}${chosen.value === "mfu" && v > 1 ? "\u2020" : ""}` : format(v));
    })));
    const table = make("table", { class: "matrix" }, make("caption", { class: "hidden" }, DATA.measures[chosen.value].label), make("thead", {}, head), make("tbody", {}, ...body));
    box.querySelector(".scroll").replaceChildren(table);
  }
  const pick = (label, name, options) => makeSelect(label, options, chosen[name], (value) => {
    chosen[name] = value;
    drawPivot();
  });
  box.querySelector(".tools").append(
    pick("Rows", "rows", axes.map((axis) => [axis, axis])),
    pick("Columns", "columns", axes.map((axis) => [axis, axis])),
    pick("Value", "value", measures.map(([name, { label }]) => [name, label])),
    pick("of several runs the", "way", Object.keys(ways).map((way) => [way, way])),
  );
  box.hidden = false;
  drawPivot();
}
