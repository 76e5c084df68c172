// Bars: the variants and trainers beside a base, and the time of each run by part.
"use strict";

function drawRows(figure, rows) {
  figure.querySelector(".rows").replaceChildren(...rows);
  figure.hidden = !rows.length;
}

{
  const figure = document.querySelector("[data-bars=variants]");
  const byModel = groupBy(DATA.speeds, (row) => `${CELLS[row.cell].cluster}/${CELLS[row.cell].model}/${CELLS[row.cell].gpus}`);
  const cells = DATA.speeds.map((row) => CELLS[row.cell]);
  const kinds = distinct(cells.map(kindOf));
  // Variants that cannot differ in speed, such as learning rates, are repeats of one of them.
  const isSpeed = (measure) => ["tokens_per_s_per_gpu", "tokens_per_s", "mfu", "step_ms_p50"].includes(measure);
  const kindBy = (measure) => (row) => kindOf(CELLS[isSpeed(measure) ? row.alike ?? row.cell : row.cell]);
  const comparedBy = (measure) => [...byModel.values()].filter((group) => distinct(group.map(kindBy(measure))).length > 1);
  const measures = Object.entries(DATA.measures).filter(([name]) => name !== "scaling_efficiency" && comparedBy(name).length);
  const first = ["tokens_per_s_per_gpu", "val_loss", "loss_last"].find((name) => measures.some(([known]) => known === name));
  const chosen = { base: kinds.length ? kindOf(cells.find(isBase) ?? cells[0]) : null, measure: first, order: "study" };
  const several = byModel.size > 1;

  function drawVariants() {
    const { label, better } = DATA.measures[chosen.measure];
    const scale = label.endsWith("(%)") ? 100 : 1;
    const rows = [];
    let i = 0;
    const compared = comparedBy(chosen.measure);
    const kindOfRow = kindBy(chosen.measure);
    for (const group of compared) {
      const means = [...groupBy(group, kindOfRow)]
        .map(([kind, runs]) => [kind, (isSpeed(chosen.measure) ? settled(runs) : runs).map((run) => run[chosen.measure]).filter((v) => v != null)])
        .filter(([, values]) => values.length).map(([kind, values]) => [kind, mean(values)]);
      if (means.length < 2) continue;
      if (chosen.order === "value") means.sort((a, b) => b[1] - a[1]);
      const baseRow = group.find((row) => kindOf(CELLS[row.cell]) === chosen.base);
      const baseKind = baseRow && kindOfRow(baseRow);
      const base = means.find(([kind]) => kind === baseKind)?.[1];
      const most = Math.max(...means.map(([, value]) => value));
      const cell = CELLS[group[0].cell];
      const fill = colour(i++, compared.length);
      if (several) rows.push(make("h3", {}, nameOf(cell, ["trainer", "variant"])));
      for (const [kind, value] of means) {
        const ratio = base ? value / base : null;
        const text = `${format(scale * value)}${ratio ? ` · ${ratio.toFixed(2)}×` : ""}`;
        const bar = make("span", { class: "fill", style: `width: ${(100 * value) / most}%; background: ${kind === baseKind ? style("--ideal") : fill}` });
        rows.push(make("div", { class: "bar" }, make("span", { class: "name" }, kind), make("span", { class: "track" }, bar, make("span", {}, text))));
      }
    }
    if (rows.length) figure.querySelector(".note").textContent = `${label}, mean over seeds${isSpeed(chosen.measure) && DATA.speeds.some((row) => row.alike != null) ? " and variants of equal speed" : ""}, and the ratio to ${chosen.base}; ${better} is better.`;
    drawRows(figure, rows);
  }
  const pick = (label, name, options) => makeSelect(label, options, chosen[name], (value) => {
    chosen[name] = value;
    drawVariants();
  });
  if (first) {
    figure.querySelector(".tools").append(
      pick("Base", "base", kinds.map((name) => [name, name])),
      pick("Measure", "measure", measures.map(([name, { label }]) => [name, label])),
      pick("Order", "order", [["study", "as in the study"], ["value", "by value"]]),
    );
    REDRAW.push(drawVariants);
    drawVariants();
    if (distinct(CELLS.map((cell) => cell.gpus)).length === 1) figure.parentNode.prepend(figure); // the main figure of such a study
  }
}

{
  const figure = document.querySelector("[data-bars=times]");
  const chosen = { relative: false };
  const alike = groupBy(DATA.times, (row) => nameOf(CELLS[row.cell])); // but for the seed
  function drawTimes() {
    const sum = (row) => row.parts.reduce((a, b) => a + b, 0);
    const longest = Math.max(...DATA.times.map(sum));
    const fills = DATA.parts.map((_, i) => colour(i, DATA.parts.length));
    const rows = DATA.times.map((row) => {
      const total = sum(row);
      const cell = CELLS[row.cell];
      const told = DATA.parts.map((part, i) => [part, row.parts[i]]).filter(([, s]) => s > 0).map(([part, s]) => `${part} ${format(s)} s (${((100 * s) / total).toFixed(0)}%)`);
      const width = chosen.relative ? 100 : (100 * total) / longest;
      const spans = row.parts.map((s, i) => make("span", { style: `width: ${(100 * s) / total}%; background: ${fills[i]}` }));
      const parts = make("span", { class: "parts", role: "img", "aria-label": told.join(", "), "data-tip": told.join("\n"), style: `width: ${width}%` }, ...spans);
      const name = nameOf(cell) + (alike.get(nameOf(cell)).length > 1 ? `, seed ${cell.seed}` : "");
      return make("div", { class: "bar" }, make("span", { class: "name" }, name), make("span", { class: "track" }, parts, make("span", {}, `${format(total)} s`)));
    });
    const keys = DATA.parts.map((part, i) => make("span", {}, make("span", { class: "swatch", style: `background: ${fills[i]}` }), ` ${part}`));
    if (rows.length) rows.unshift(make("div", { class: "keys" }, ...keys));
    drawRows(figure, rows);
  }
  figure.querySelector(".tools").append(makeCheck("As shares", false, (on) => {
    chosen.relative = on;
    drawTimes();
  }));
  REDRAW.push(drawTimes);
  drawTimes();
}
