// Charts: uPlot draws axes and frames, and the lines, bands and intervals are drawn here, as each
// series has its own x. A series is {key, label, colour, dash, width, x, y, low, high, marks, shape, rings}.
"use strict";

const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [14, 5], [1, 5]];
/** Return the i-th line style: after the first ones, a dash with more and more dots. */
const dashOf = (i) => DASHES[i] ?? [12, ...Array(i - DASHES.length + 2).fill([3, 2]).flat(), 3];
// Corners of the marks, within a circle of radius 1: as in the figures, a circle and then s D ^ v P * X.
const star = (inner, points, turn) => Array.from({ length: 2 * points }, (_, i) => {
  const [radius, angle] = [i % 2 ? inner : 1.2, turn + (Math.PI * i) / points];
  return [radius * Math.sin(angle), -radius * Math.cos(angle)];
});
const SHAPES = [
  null, [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]], [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
  [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]], [[0, 1.2], [1.1, -0.8], [-1.1, -0.8]], star(0.45, 4, 0), star(0.5, 5, 0), star(0.45, 4, Math.PI / 4),
];

/** Return the outline of the i-th mark, as the path of an SVG. */
function markPath(i, x, y, radius) {
  const corners = SHAPES[(i ?? 0) % SHAPES.length];
  if (!corners) return `M${x - radius},${y}a${radius},${radius} 0 1,0 ${2 * radius},0a${radius},${radius} 0 1,0 ${-2 * radius},0Z`;
  return `M${corners.map(([dx, dy]) => `${x + radius * dx},${y + radius * dy}`).join("L")}Z`;
}

const PRINTED = [500, 210]; // size on paper, CSS pixels: two side by side on A4 landscape
const MOST_SHOWN = 12; // series switched on at first
const isGood = (value, log) => value != null && Number.isFinite(value) && (!log || value > 0);

/** Return ticks of a log axis: 1, 2 and 5 if it is short, decades if it is long. */
function logTicks(low, high) {
  const digits = high / low < 300 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const digit of digits) ticks.push(+`${digit}e${e}`);
  }
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  return inside.length >= 3 ? inside : linearTicks(low, high);
}

function linearTicks(low, high) {
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * unit).find((s) => s >= raw);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(+tick.toPrecision(12));
  return ticks;
}

/** Return labels without those that would touch another: the ends are kept, then powers of two, such as GPU counts. */
function apart(labels, places) {
  const all = [...labels.keys()];
  const powers = all.filter((i) => Number.isInteger(Math.log2(labels[i])));
  const kept = [];
  for (const i of distinct([0, labels.length - 1, ...powers, ...all])) {
    const touches = (k) => Math.abs(places[i] - places[k]) < 3.6 * (labels[i].length + labels[k].length) + 4;
    if (!kept.some(touches)) kept.push(i);
  }
  return labels.map((label, i) => (kept.includes(i) ? label : ""));
}

/** Return the range of values with a margin. */
function rangeOf(values, log, floor) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(low <= high)) return log ? [1, 10] : [0, 1];
  if (log) {
    const pad = Math.max((high / low) ** 0.04, 1.05);
    return [low / pad, high * pad];
  }
  const pad = 0.05 * (high - low) || Math.abs(high) * 0.05 || 1;
  return [floor != null ? Math.min(floor, low - pad) : low - pad, high + pad];
}

/** Return the series that are switched on at first: those of the base variant before others. */
function shownAtFirst(series) {
  const plain = evenly(series.filter((s) => s.plain), MOST_SHOWN);
  return [...plain, ...evenly(series.filter((s) => !s.plain), MOST_SHOWN - plain.length)];
}

class Chart {
  /** `spec` has title, table and functions of the state: series, ideal, x and y axes. */
  constructor(figure, spec, state) {
    Object.assign(this, { figure, spec, state, hidden: new Set(), focus: null, zoom: null, at: null });
    this.plot = figure.querySelector(".plot");
    this.reading = figure.querySelector(".reading");
    const series = spec.series(state);
    if (!series.length) return;
    figure.hidden = false;
    const shown = new Set(shownAtFirst(series).map((s) => s.key));
    for (const { key } of series) if (!shown.has(key)) this.hidden.add(key);
    this.addTools();
    this.addKeys(series);
    this.plot.addEventListener("keydown", (event) => this.step(event));
    this.plot.addEventListener("blur", () => this.leave());
    new ResizeObserver(() => this.width() !== this.u?.width && this.draw()).observe(this.plot);
    REDRAW.push(() => this.draw());
    this.draw();
  }

  width() {
    if (isPrinting()) return PRINTED[0];
    return Math.max(240, Math.floor(this.plot.clientWidth));
  }

  set(name, value) {
    this.state[name] = value;
    this.zoom = null;
    this.draw();
  }

  addTools() {
    const tools = this.figure.querySelector(".tools");
    this.spec.tools?.(this, tools);
    this.reset = make("button", { type: "button", onclick: () => { this.zoom = null; this.draw(); } }, "Show all");
    tools.append(this.reset);
  }

  addKeys(series) {
    const keys = this.figure.querySelector(".keys");
    const boxes = new Map();
    const sync = () => {
      for (const [key, box] of boxes) box.checked = !this.hidden.has(key);
      this.zoom = null;
      this.draw();
    };
    if (series.length > 1) {
      const matching = () => series.filter(({ label }) => label.toLowerCase().includes((search?.value ?? "").toLowerCase()));
      const all = (on) => { matching().forEach(({ key }) => (on ? this.hidden.delete(key) : this.hidden.add(key))); sync(); };
      const search = series.length > MOST_SHOWN ? make("input", { type: "search", placeholder: "find", "aria-label": `Find in ${this.spec.title}`, oninput: () => {
        const found = new Set(matching());
        for (const s of series) boxes.get(s.key).parentNode.hidden = !found.has(s);
      } }) : null;
      keys.before(make("div", { class: "tools" }, ...(search ? [search] : []),
        make("button", { type: "button", onclick: () => all(true) }, "All"), make("button", { type: "button", onclick: () => all(false) }, "None"),
        ...(search ? [`${MOST_SHOWN} of ${series.length} are shown at first`] : [])));
    }
    for (const s of series) {
      const label = makeCheck("", !this.hidden.has(s.key), (on) => { on ? this.hidden.delete(s.key) : this.hidden.add(s.key); sync(); });
      label.append(this.swatch(s), s.label);
      label.onmouseenter = () => { this.focus = s.key; this.u?.redraw(); };
      label.onmouseleave = () => { this.focus = null; this.u?.redraw(); };
      boxes.set(s.key, label.firstChild);
      keys.append(label);
    }
    this.keys = new Map([...boxes].map(([key, box]) => [key, box.parentNode]));
  }

  swatch(s) {
    const holder = document.createElement("span");
    const dash = s.dash?.length ? ` stroke-dasharray="${s.dash.join(" ")}"` : "";
    holder.innerHTML = `<svg width="26" height="10" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" stroke="${s.colour}" stroke-width="${s.width ?? 2}"${dash}/>${s.marks ? `<path d="${markPath(s.shape, 13, 5, 3.5)}" fill="${s.hollow ? style("--page") : s.colour}" stroke="${s.colour}" stroke-width="1.5"/>` : ""}</svg>`;
    return holder.firstChild;
  }

  draw() {
    const width = this.width();
    this.at = null;
    this.all = this.spec.series(this.state);
    this.shown = this.all.filter((s) => !this.hidden.has(s.key));
    for (const s of this.all) this.keys.get(s.key)?.querySelector("svg").replaceWith(this.swatch(s));
    this.ideal = this.spec.ideal?.(this.state, this.shown) ?? [];
    const { x, y } = this.axes();
    this.u?.destroy();
    const axis = (of, scale) => ({
      stroke: style("--text"), grid: { stroke: style("--grid"), width: 1 }, ticks: { stroke: style("--grid"), width: 1 },
      label: of.label, labelSize: 18, labelGap: 2, font: "12px system-ui", labelFont: "12px system-ui", size: scale === "y" ? 58 : 34,
      splits: (u) => of.ticks?.(u.scales[scale].min, u.scales[scale].max) ?? (of.log ? logTicks : linearTicks)(u.scales[scale].min, u.scales[scale].max),
      values: (u, ticks) => {
        const labels = ticks.map(of.format ?? format);
        return scale === "x" ? apart(labels, ticks.map((tick) => u.valToPos(tick, "x"))) : labels;
      }, filter: (u, ticks) => ticks,
    });
    this.u = new uPlot({
      mode: 2, width, height: isPrinting() ? PRINTED[1] : Math.max(270, Math.min(380, Math.round(width * 0.6))), legend: { show: false },
      padding: [10, 14, 0, 0],
      scales: { x: { time: false, distr: x.log ? 3 : 1, range: () => x.range }, y: { distr: y.log ? 3 : 1, range: () => y.range } },
      axes: [axis(x, "x"), axis(y, "y")],
      series: [{}, { facets: [{ scale: "x", auto: true }, { scale: "y", auto: true }], paths: () => null, points: { show: false } }],
      cursor: { points: { show: false }, dataIdx: () => null, drag: { x: true, y: true, uni: 20, setScale: false }, bind: { dblclick: () => () => { this.zoom = null; this.draw(); } } },
      hooks: { draw: [(u) => this.paint(u)], setSelect: [(u) => this.zoomTo(u)] },
    }, [null, [x.range, y.range]], this.plot);
    this.x = x;
    this.y = y;
    this.u.over.addEventListener("mousemove", (event) => this.hover(event));
    this.u.over.addEventListener("mouseleave", () => this.leave());
    this.reset.hidden = !this.zoom;
  }

  /** Return both axes, with the range of what is shown or zoomed to. */
  axes() {
    const x = { ...this.spec.x(this.state) };
    const y = { ...this.spec.y(this.state) };
    const xs = [];
    const ys = [];
    const wild = []; // of runs that diverged, perhaps a thousand times as high: their lines leave the chart at the top
    for (const s of this.shown) {
      const values = s.diverged ? wild : ys;
      for (let i = 0; i < s.x.length; i++) {
        if (!isGood(s.x[i], x.log)) continue;
        xs.push(s.x[i]);
        for (const value of [s.y[i], s.low?.[i], s.high?.[i]]) if (isGood(value, y.log)) values.push(value);
      }
      for (const [at, value] of s.rings ?? []) {
        if (!isGood(at, x.log) || !isGood(value, y.log)) continue;
        xs.push(at); // against time, the last evaluation ends after the last step
        values.push(value);
      }
    }
    for (const value of this.ideal.flatMap((line) => line.y)) if (isGood(value, y.log)) ys.push(value);
    x.range = this.zoom?.x ?? x.range ?? rangeOf(xs, x.log, x.floor);
    const highest = ys.length ? ys.reduce((a, b) => Math.max(a, b)) : Infinity;
    y.range = this.zoom?.y ?? rangeOf([...ys, ...wild.filter((value) => value <= highest)], y.log, y.floor);
    return { x, y };
  }

  zoomTo(u) {
    const { left, top, width, height } = u.select;
    if (width < 8 && height < 8) return;
    const wide = width >= 8;
    const high = height >= 8;
    this.zoom = {
      x: wide ? [u.posToVal(left, "x"), u.posToVal(left + width, "x")] : this.x.range,
      y: high ? [u.posToVal(top + height, "y"), u.posToVal(top, "y")] : this.y.range,
    };
    setTimeout(() => this.draw());
  }

  paint(u) {
    const { ctx, bbox } = u;
    const px = (value) => u.valToPos(value, "x", true);
    const py = (value) => u.valToPos(value, "y", true);
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineJoin = "round";
    for (const line of this.ideal) {
      ctx.strokeStyle = style("--ideal");
      ctx.lineWidth = 1.3 * ratio;
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      this.trace(ctx, line.x, line.y, px, py);
      ctx.stroke();
    }
    for (const s of this.shown) {
      ctx.globalAlpha = this.focus && this.focus !== s.key ? 0.15 : 1;
      this.paintSeries(ctx, s, px, py, ratio);
    }
    ctx.globalAlpha = 1;
    if (this.at) {
      const { s, i } = this.at;
      ctx.setLineDash([]);
      ctx.strokeStyle = style("--text");
      ctx.lineWidth = 2 * ratio;
      ctx.beginPath();
      ctx.arc(px(s.x[i]), py(s.y[i]), 5.5 * ratio, 0, 7);
      ctx.stroke();
    }
    ctx.restore();
  }

  paintSeries(ctx, s, px, py, ratio) {
    const alpha = ctx.globalAlpha;
    ctx.strokeStyle = ctx.fillStyle = s.colour;
    ctx.setLineDash([]);
    if (s.low && s.band) {
      ctx.globalAlpha = 0.2 * alpha;
      ctx.beginPath();
      const good = s.x.map((_, i) => i).filter((i) => isGood(s.x[i], this.x.log) && isGood(s.low[i], this.y.log));
      good.forEach((i, n) => ctx[n ? "lineTo" : "moveTo"](px(s.x[i]), py(s.high[i])));
      good.reverse().forEach((i) => ctx.lineTo(px(s.x[i]), py(s.low[i])));
      ctx.fill();
    }
    if (s.raw) {
      ctx.globalAlpha = 0.25 * alpha;
      ctx.lineWidth = ratio;
      this.trace(ctx, s.x, s.raw, px, py);
      ctx.stroke();
    }
    ctx.globalAlpha = alpha;
    ctx.lineWidth = (s.width ?? 2) * ratio;
    if (!s.apart) {
      ctx.setLineDash((s.dash ?? []).map((part) => part * ratio));
      this.trace(ctx, s.x, s.y, px, py);
      ctx.stroke();
    }
    ctx.setLineDash([]);
    for (let i = 0; i < s.x.length; i++) {
      if (!isGood(s.x[i], this.x.log) || !isGood(s.y[i], this.y.log)) continue;
      if (s.low && (s.marks || s.apart) && s.high[i] > s.low[i]) {
        ctx.lineWidth = 1.5 * ratio;
        ctx.beginPath();
        ctx.moveTo(px(s.x[i]), py(s.low[i]));
        ctx.lineTo(px(s.x[i]), py(s.high[i]));
        ctx.stroke();
      }
      if (s.marks || s.x.length === 1) this.dot(ctx, px(s.x[i]), py(s.y[i]), 4 * ratio, s.hollow, ratio, s.shape);
    }
    for (const [x, y] of s.rings ?? []) if (isGood(x, this.x.log) && isGood(y, this.y.log)) this.dot(ctx, px(x), py(y), 3.5 * ratio, true, ratio);
    if (s.diverged) {
      const i = s.y.findLastIndex((value) => isGood(value, this.y.log));
      if (i >= 0) ctx.font = `bold ${16 * ratio}px system-ui`, ctx.fillText("×", px(s.x[i]) - 5 * ratio, Math.max(py(s.y[i]) + 5 * ratio, bbox.top + 10 * ratio));
    }
  }

  dot(ctx, x, y, radius, hollow, ratio, shape) {
    const colour = ctx.fillStyle;
    const outline = new Path2D(markPath(shape, x, y, radius));
    if (hollow) ctx.fillStyle = style("--page");
    ctx.fill(outline);
    ctx.lineWidth = 1.6 * ratio;
    ctx.stroke(outline);
    ctx.fillStyle = colour;
  }

  trace(ctx, xs, ys, px, py) {
    ctx.beginPath();
    let broken = true;
    for (let i = 0; i < xs.length; i++) {
      if (!isGood(xs[i], this.x.log)) continue;
      if (!isGood(ys[i], this.y.log)) { broken = true; continue; }
      ctx[broken ? "moveTo" : "lineTo"](px(xs[i]), py(ys[i]));
      broken = false;
    }
  }

  hover(event) {
    const box = this.u.over.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let [best, nearest] = [40 * 40, null];
    for (const s of this.shown) {
      for (let i = 0; i < s.x.length; i++) {
        if (!isGood(s.x[i], this.x.log) || !isGood(s.y[i], this.y.log)) continue;
        const dx = this.u.valToPos(s.x[i], "x") - left;
        if (Math.abs(dx) > 40) continue;
        const dy = this.u.valToPos(s.y[i], "y") - top;
        if (dx * dx + dy * dy < best) [best, nearest] = [dx * dx + dy * dy, { s, i }];
      }
    }
    this.tell(nearest, event.clientX, event.clientY);
  }

  /** Show a point's values beside the pointer or, for the keyboard, below the chart. */
  tell(point, x, y) {
    const moved = point?.s !== this.at?.s || point?.i !== this.at?.i;
    this.at = point;
    this.focus = point?.s.key ?? null;
    if (moved) this.u.redraw(false);
    if (!point) return hideTip();
    const text = this.describe(point);
    if (x == null) this.reading.textContent = text.replaceAll("\n", "; ");
    else showTip(text, x, y);
  }

  describe({ s, i }) {
    const show = (axis, value) => (axis.format ?? format)(value);
    const lines = [s.names?.[i] ?? s.label, `${this.x.label}: ${show(this.x, s.x[i])}`, `${this.y.label}: ${show(this.y, s.y[i])}`];
    if (s.low && s.high[i] !== s.low[i]) lines.push(`${s.spread}: ${show(this.y, s.low[i])} to ${show(this.y, s.high[i])}`);
    return lines.join("\n");
  }

  leave() {
    if (this.at) this.tell(null);
    this.focus = null;
    this.reading.textContent = "";
  }

  /** Move along the points with the arrow keys. */
  step(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const move = moves[event.key];
    if (!move || !this.shown.length) return;
    event.preventDefault();
    let at = this.at && this.shown.includes(this.at.s) ? { n: this.shown.indexOf(this.at.s), i: this.at.i } : { n: 0, i: -1 };
    if (!this.at) at.i = move[1] > 0 ? -1 : 0;
    const n = (at.n + move[0] + this.shown.length) % this.shown.length;
    const s = this.shown[n];
    let i = Math.min(Math.max(0, at.i + move[1]), s.x.length - 1);
    while (i > 0 && i < s.x.length - 1 && !isGood(s.y[i], this.y.log)) i += move[1] || 1;
    this.tell({ s, i });
  }
}
