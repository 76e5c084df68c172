// The charts of a study: which series each has, and its axes.
"use strict";

const MODELS = [...groupBy(CELLS, (cell) => cell.model)].map(([name, cells]) => [name, cells[0].params]).sort((a, b) => a[1] - b[1]).map(([name]) => name);
const GPUS = distinct(CELLS.map((cell) => cell.gpus)).sort((a, b) => a - b);
// Variants and trainers on each cluster, the base first.
const kindOnCluster = (cell) => `${cell.cluster}\n${kindOf(cell)}`;
const KINDS = distinct([...CELLS].sort((a, b) => isBase(b) - isBase(a)).map(kindOnCluster));

// Of all clusters; a mark stands for one, as the figures' do.
const MARKED = distinct(KINDS.map((name) => name.split("\n")[1]));

/** Return the place of a cell's line style: its kind's, or its GPU count's if colour shows the kind. */
function dashPlace(kind, gpus, byKind) {
  if (byKind) return GPUS.length > 1 ? gpus : kind;
  const each = KINDS.length === 1 || KINDS.length * GPUS.length <= DASHES.length;
  return each ? kind * GPUS.length + gpus : kind;
}

/** Colour: model, paler with the GPU count. A study of one model: trainer and variant. */
function lookOf(cell) {
  const share = (i, count) => i / Math.max(1, count - 1);
  const gpus = GPUS.indexOf(cell.gpus);
  const kind = KINDS.indexOf(kindOnCluster(cell));
  const byKind = MODELS.length === 1 && KINDS.length > 1;
  const hue = byKind ? colour(kind, KINDS.length) : colour(MODELS.indexOf(cell.model), MODELS.length);
  const paler = mix(hue, isDark() ? "#ffffff" : "#000000", 0.35 * share(gpus, GPUS.length));
  // Lines that coincide stay visible: the first is wide, and those over it are narrow and dashed.
  const over = GPUS.length > 1 ? share(gpus, GPUS.length) : share(kind, KINDS.length);
  return { colour: paler, dash: dashOf(dashPlace(kind, gpus, byKind)), width: 3 - 1.4 * over };
}

const ALONG = {
  step: ["Steps", (cell) => 1],
  tokens: ["Tokens", (cell) => cell.tokens],
  time: ["Wall-clock time (s)", null],
  flops: ["Model FLOPs", (cell) => cell.flops],
};

/** Return an exponential moving average; `weight` is that of the past after one usual interval. */
function smooth(steps, values, weight) {
  if (!weight) return values;
  const gaps = steps.slice(1).map((step, i) => step - steps[i]).sort((a, b) => a - b);
  const usual = gaps[gaps.length >> 1] || 1;
  let [level, mass, last] = [0, 0, null];
  return values.map((value, i) => {
    if (value == null) return null;
    const keep = last == null ? 0 : weight ** ((steps[i] - last) / usual);
    last = steps[i];
    level = keep * level + (1 - keep || 1) * value;
    mass = keep * mass + (1 - keep || 1);
    return level / mass;
  });
}

/** Return the values of a line at other places, linear in between; null outside. */
function resample(xs, ys, places) {
  let i = 0;
  return places.map((x) => {
    while (i < xs.length - 2 && xs[i + 1] < x) i++;
    if (x < xs[0] || x > xs[xs.length - 1] || ys[i] == null) return null;
    if (xs.length < 2 || ys[i + 1] == null) return ys[i];
    return ys[i] + ((ys[i + 1] - ys[i]) * (x - xs[i])) / (xs[i + 1] - xs[i]);
  });
}

/**
 * Return many lines as one: their mean, and their range. The mean begins with more than half of the lines:
 * against time, the first loss of a run joins losses that others have lowered since, and the mean would rise.
 */
function bandOf(lines) {
  const begins = lines.map((line) => line.x[0]).sort((a, b) => a - b)[Math.floor(lines.length / 2)];
  const longest = lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
  const columns = lines.map((line) => (line === longest ? line.y : resample(line.x, line.y, longest.x)));
  const at = longest.x.map((_, i) => columns.map((column) => column[i]).filter((value) => value != null));
  const over = (reduce) => at.map((values) => (values.length ? reduce(values) : null));
  const y = over(mean).map((value, i) => (longest.x[i] < begins ? null : value));
  return { x: longest.x, y, low: over((v) => Math.min(...v)), high: over((v) => Math.max(...v)) };
}

function lossSeries(state) {
  const groups = groupBy(DATA.curves, (curve) => nameOf(CELLS[curve.cell]));
  return [...groups].flatMap(([name, curves]) => {
    const lines = curves.map((curve) => {
      const cell = CELLS[curve.cell];
      const scale = ALONG[state.along][1]?.(cell);
      const x = scale ? curve.step.map((step) => step * scale) : curve.time;
      const rings = curve.evals.map(([step, time, loss]) => [scale ? step * scale : time, loss]);
      const y = smooth(curve.step, curve.loss, state.smoothing);
      return { ...lookOf(cell), key: name, label: name, plain: cell.variant === "base", x, y, raw: state.smoothing ? curve.loss : null, rings, diverged: curve.diverged, seed: cell.seed };
    });
    if (lines.length === 1) return lines;
    if (!state.bands) return lines.map((line) => ({ ...line, width: 1.2, label: `${name}, seed ${line.seed}` }));
    const rings = lines.flatMap((line) => line.rings);
    return [{ ...lines[0], ...bandOf(lines), rings, raw: null, band: true, label: `${name}, ${lines.length} seeds`, spread: "seeds", diverged: lines.some((line) => line.diverged) }];
  });
}

const SEEDS = distinct(CELLS.map((cell) => cell.seed)).length > 1;

new Chart(document.querySelector("[data-chart=loss]"), {
  title: "Training loss",
  series: lossSeries,
  // Tokens are counted in billions, as everywhere else; FLOPs in G, P and E.
  x: (state) => ({ label: ALONG[state.along][0], log: state.xlog, format: state.along === "tokens" ? (value) => format(value).replace("G", "B") : format }),
  y: (state) => ({ label: "Loss (nats per token)", log: state.ylog }),
  tools(chart, tools) {
    const slider = make("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, oninput: () => chart.set("smoothing", +slider.value) });
    tools.append(
      makeSelect("Against", Object.entries(ALONG).map(([name, [label]]) => [name, label]), "step", (value) => chart.set("along", value)),
      makeCheck("log x", true, (on) => chart.set("xlog", on)),
      makeCheck("log y", false, (on) => chart.set("ylog", on)),
      make("label", {}, "Smoothing", slider),
      ...(SEEDS ? [makeCheck("Seeds as a band", true, (on) => chart.set("bands", on))] : []),
    );
    if (DATA.curves.some((curve) => curve.evals.length)) tools.append(make("span", {}, "○ held-out loss"));
    if (DATA.curves.some((curve) => curve.diverged)) tools.append(make("span", {}, "× diverged"));
  },
}, { along: "step", xlog: true, ylog: false, smoothing: 0, bands: true });

/** Return a series for each model, trainer, variant and cluster: a measure against GPU count. */
function scalingSeries(measure, scale = 1) {
  const rows = DATA.speeds.filter((row) => row[measure] != null);
  return [...groupBy(rows, (row) => nameOf(CELLS[row.cell], ["gpus"]))].map(([name, group]) => {
    const counts = [...groupBy(group, (row) => CELLS[row.cell].gpus)].sort((a, b) => a[0] - b[0]);
    const values = counts.map(([, runs]) => settled(runs).map((run) => scale * run[measure]));
    const cell = CELLS[group[0].cell];
    const look = { ...lookOf({ ...cell, gpus: GPUS[0] }), width: 2, hollow: !isBase(cell), shape: MARKED.indexOf(kindOf(cell)), base: isBase(cell), plain: cell.variant === "base" };
    const spread = { low: values.map((v) => Math.min(...v)), high: values.map((v) => Math.max(...v)), spread: "seeds" };
    return { ...look, key: name, label: name, marks: true, x: counts.map(([count]) => count), y: values.map(mean), ...spread };
  });
}

/** Return the ideal line of each base measured on several GPU counts; `all`: it is of all GPUs, not of one. */
function linearScaling(series, all) {
  return series.filter((s) => s.base && s.x.length > 1).map((s) => {
    const counts = GPUS.filter((count) => count >= s.x[0]);
    return { x: counts, y: counts.map((count) => (all ? (s.y[0] * count) / s.x[0] : s.y[0])) };
  });
}

const gpuAxis = () => ({ label: "GPU count", log: true, ticks: () => GPUS, format: (value) => `${value}`, range: [GPUS[0] / 1.2, GPUS.at(-1) * 1.2] });
const MEASURED = distinct(DATA.speeds.map((row) => CELLS[row.cell].gpus));

if (MEASURED.length > 1) {
  new Chart(document.querySelector("[data-chart=speed]"), {
    title: "Throughput against GPU count",
    series: (state) => scalingSeries(state.measure),
    ideal: (state, shown) => linearScaling(shown, state.measure === "tokens_per_s"),
    x: gpuAxis,
    y: (state) => ({ label: DATA.measures[state.measure].label, log: state.ylog }),
    tools(chart, tools) {
      const measures = ["tokens_per_s", "tokens_per_s_per_gpu"].map((name) => [name, DATA.measures[name].label]);
      tools.append(makeSelect("Show", measures, "tokens_per_s", (value) => chart.set("measure", value)), makeCheck("log y", true, (on) => chart.set("ylog", on)));
    },
  }, { measure: "tokens_per_s", ylog: true });
  new Chart(document.querySelector("[data-chart=efficiency]"), {
    title: "Scaling efficiency against GPU count",
    series: () => scalingSeries("scaling_efficiency", 100),
    ideal: () => [{ x: [GPUS[0] / 1.2, GPUS.at(-1) * 1.2], y: [100, 100] }],
    x: gpuAxis,
    y: () => ({ label: "Scaling efficiency (%)", log: false, floor: 80 }),
  }, {});
}

function estimateSeries() {
  const points = DATA.predictions.filter((point) => point.measured != null && point.predicted.every((value) => value != null));
  const kinds = [[false, "from the others", 1], [true, "before the run", 0]]; // the last is on top
  return kinds.flatMap(([before, made, hue]) => [[true, "in the interval"], [false, "outside it"]].map(([inside, where]) => {
    const chosen = points.filter((point) => point.before === before && point.inside === inside);
    const of = (place) => chosen.map((point) => point.predicted[place]);
    const label = `${made}, ${where}`;
    return { key: label, label: `${label} (${chosen.length})`, colour: colour(hue, 7), hollow: !inside, apart: true, marks: true, x: chosen.map((point) => point.measured), y: of(1), low: of(0), high: of(2), spread: "80% interval", names: chosen.map((point) => point.label) };
  })).filter((s) => s.x.length);
}

new Chart(document.querySelector("[data-chart=estimates]"), {
  title: "Estimate against measurement",
  series: estimateSeries,
  ideal: (state, shown) => {
    const all = shown.flatMap((s) => [...s.x, ...s.low, ...s.high]);
    if (!all.length) return [];
    const ends = [Math.min(...all), Math.max(...all)];
    return [{ x: ends, y: ends }];
  },
  x: () => ({ label: "Measured step (ms)", log: true }),
  y: () => ({ label: "Predicted step (ms)", log: true }),
}, {});
