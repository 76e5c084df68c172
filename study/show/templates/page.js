// What the other scripts share: the data, elements, colours of the theme, hints, printing.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const CELLS = DATA.cells;

/** Return an element with attributes, properties that start with `on`, and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Return a labelled select; `options` are [value, label]. */
function makeSelect(label, options, value, change) {
  const select = make("select", { onchange: () => change(select.value) });
  for (const [option, text] of options) select.append(make("option", { value: option }, text));
  select.value = value;
  return make("label", {}, label, select);
}

/** Return a labelled check box. */
function makeCheck(label, checked, change) {
  const box = make("input", { type: "checkbox", onchange: () => change(box.checked) });
  box.checked = checked;
  return make("label", {}, box, label);
}

/** Group items by a key, in order of first appearance. */
function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) {
    const k = key(item);
    if (!groups.has(k)) groups.set(k, []);
    groups.get(k).push(item);
  }
  return groups;
}

const distinct = (items) => [...new Set(items)];
/** Return the runs that did not diverge; all of them if all did. */
function settled(runs) {
  const ended = runs.filter((run) => !run.diverged);
  return ended.length ? ended : runs;
}
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Return at most `most` items, evenly spaced, with the first and, of several, the last. */
function evenly(items, most) {
  if (items.length <= most) return items;
  return Array.from({ length: most }, (_, i) => items[Math.round((i * (items.length - 1)) / Math.max(1, most - 1))]);
}

// Cells have a trainer in a study with others than ours.
const AXES = ["cluster", "model", "gpus", "trainer", "variant"];
const VARIED = AXES.filter((axis) => axis !== "model" && distinct(CELLS.map((cell) => cell[axis])).length > 1);

/** Return the name of a cell without its seed, by what differs between the cells. */
function nameOf(cell, without = []) {
  const parts = [cell.model];
  for (const axis of VARIED) {
    if (without.includes(axis)) continue;
    if (axis === "gpus") parts.push(`${cell.gpus} GPU${cell.gpus > 1 ? "s" : ""}`);
    else if (axis !== "variant" || cell.variant !== "base") parts.push(cell[axis]);
  }
  return parts.join(", ");
}

/** Whether a cell is what others are compared with: the base variant, by our trainer. */
const isBase = (cell) => cell.variant === "base" && (cell.trainer ?? "ours") === "ours";

/** Return what tells a cell from others of its cluster, model and GPU count: trainer and variant. */
function kindOf(cell) {
  if (!cell.trainer) return cell.variant;
  return cell.variant === "base" ? cell.trainer : `${cell.trainer}, ${cell.variant}`;
}

/** Return a number with four significant digits, and K, M, ... if it is large. */
function format(value) {
  if (value == null || !Number.isFinite(value)) return "";
  const rounded = +value.toPrecision(4);
  const size = Math.abs(rounded);
  for (const [unit, letter] of [[1e21, "Z"], [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "K"]]) {
    if (size >= unit) return `${+(rounded / (unit === 1e4 ? 1e3 : unit)).toPrecision(4)}${letter}`;
  }
  return size >= 1000 ? rounded.toLocaleString("en") : `${rounded}`;
}

// Okabe and Ito's palette without yellow; the last is lightened in dark mode.
const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#777777"];
const DARK_HUES = ["#4aa8e0", "#f0b429", "#2fc497", "#dd97c0", "#8fd0f5", "#f5803e", "#b0b0b0"];
const SHADES = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#bddf26"];
const DARK_SHADES = ["#8d5bb5", "#7a7fd0", "#4aa3b8", "#35c79b", "#8fe06a", "#e2f04a"];

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isPrinting = () => document.documentElement.classList.contains("printing");
const isDark = () => style("--scheme") === "dark";

function mix(a, b, share) {
  const channel = (colour, i) => parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16);
  return "#" + [0, 1, 2].map((i) => Math.round(channel(a, i) * (1 - share) + channel(b, i) * share).toString(16).padStart(2, "0")).join("");
}

/** Return the colour of the i-th of `count` things: by hue or, if they are many, from dark to light. */
function colour(i, count) {
  const hues = isDark() ? DARK_HUES : HUES;
  if (count <= hues.length) return hues[i];
  const shades = isDark() ? DARK_SHADES : SHADES;
  const place = (i / (count - 1)) * (shades.length - 1);
  const low = Math.min(Math.floor(place), shades.length - 2);
  return mix(shades[low], shades[low + 1], place - low);
}

// Hints: on hover and on focus of what has `data-tip`.
const TIP = document.getElementById("tip");
function showTip(text, x, y) {
  TIP.textContent = text;
  TIP.hidden = false;
  const box = TIP.getBoundingClientRect();
  TIP.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
  TIP.style.top = `${y + 16 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 16}px`;
}
function hideTip() {
  TIP.hidden = true;
}
function hint(event) {
  const holder = event.target.closest?.("[data-tip]");
  if (!holder) return;
  const box = holder.getBoundingClientRect();
  showTip(holder.dataset.tip, box.left, box.bottom - 10);
}
document.addEventListener("mouseover", hint);
document.addEventListener("focusin", hint);
for (const end of ["mouseout", "focusout", "scroll"]) document.addEventListener(end, hideTip);
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

// A link into a folded section opens it.
function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target?.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();

// Redrawn when the theme changes; in print always light, and unfolded.
const REDRAW = [];
const redraw = () => REDRAW.forEach((draw) => draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
const PAPER = 1040; // width of A4 landscape within its margins, CSS pixels
let folded = [];
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("printing");
  folded = [...document.querySelectorAll("details:not([open]):not(.run)")];
  folded.forEach((details) => (details.open = true));
  // On paper a table has 7 pt; one that is still too wide becomes smaller.
  for (const table of document.querySelectorAll("table:not(.run table)")) {
    const width = (table.scrollWidth * (7 / 0.75)) / parseFloat(getComputedStyle(table).fontSize);
    table.style.zoom = Math.min(1, PAPER / width);
  }
  redraw();
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printing");
  folded.forEach((details) => (details.open = false));
  for (const table of document.querySelectorAll("table")) table.style.zoom = "";
  redraw();
});
