// The charts, as Vega-Lite specifications over the page's data. Each function returns a list of views of one width.

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "var(--ink)"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]];
// Light to dark, as a printer without colours has it too.
const SHADES = { interpolate: "rgb", range: ["#f1f5f8", "#0b3c5d"] };
// The smallest width that a view is drawn at, and the room for the labels of its vertical axis.
const NARROWEST = 230;
const NUMBERS = 52;
const NAMES = 170;

// How a line looks in every chart; colour alone never tells two lines apart.
function look(line) {
  return {
    colour: COLOURS[line % COLOURS.length],
    shape: SHAPES[line % SHAPES.length],
    dash: DASHES[line % DASHES.length],
  };
}

function mapped(lines, of) {
  return { domain: lines, range: lines.map((line) => look(line)[of]) };
}

function digits(value, most = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(most)));
}

function padded(values, lower, upper) {
  const found = values.filter((value) => value !== null && value !== undefined);
  if (!found.length) return [0, 1];
  const least = Math.min(...found);
  const most = Math.max(...found);
  const pad = (most - least || Math.abs(most) || 1) * 0.06;
  return [Math.max(least - pad, lower ?? -Infinity), Math.min(most + pad, upper ?? Infinity)];
}

// What a reader is told of a row when the pointer is on it.
function toldOf(row, data) {
  const interval = row.low === null ? "" : ` [${digits(row.low)}, ${digits(row.high)}]`;
  const spread = row.sd === null ? "" : ` ± ${digits(row.sd, 2)}`;
  const told = { title: row.label || "all runs", [row.metric]: `${digits(row.mean)}${spread}` };
  if (interval) told["95 % interval"] = interval.trim();
  told.runs = row.diverged ? `${row.n}, and ${row.diverged} diverged` : String(row.n);
  if (row.trains) told.trains = row.trains;
  for (const [name, label] of Object.entries(data.costs)) told[label] = digits(row.costs[name], 3);
  if (row.chosen) told.chosen = "by validation";
  if (row.beaten) told.beaten = "by another row";
  return told;
}

const TIP = { field: "told" };
// A row that another one beats.
const PALE = { condition: { test: "datum.beaten", value: 0.35 }, value: 1 };
const WHITE = { stroke: "var(--paper)", strokeWidth: 1 };

// The metric along the axis of depth, a line for each strategy.
function depthView(data, shown, title) {
  const counts = data.axis.counts;
  const values = [...new Set(shown.rows.map((row) => row.x))];
  const x = {
    field: counts ? "place" : "x",
    type: counts ? "quantitative" : "ordinal",
    sort: null,
    title: data.axis.title,
    scale: counts ? { domain: [Math.min(...values) - 0.3, Math.max(...values) + 0.3], nice: false } : undefined,
    axis: counts ? { values: values.sort((a, b) => a - b), format: "~g", labelOverlap: true } : { labelAngle: 0 },
  };
  const y = { type: "quantitative", title: null, scale: { domain: shown.domain, nice: true, zero: false } };
  const colour = { field: "line", type: "nominal", scale: mapped(shown.lines, "colour"), legend: null };
  const shape = { field: "line", type: "nominal", scale: mapped(shown.lines, "shape"), legend: null };
  const dash = { field: "line", type: "nominal", scale: mapped(shown.lines, "dash"), legend: null };
  const mean = { ...y, field: "mean" };
  return {
    title,
    data: { values: shown.rows },
    encoding: { x },
    layer: [
      { mark: { type: "line", strokeWidth: 2, aria: false }, encoding: { y: mean, color: colour, strokeDash: dash } },
      {
        mark: { type: "rule", strokeWidth: 1.4, aria: false },
        encoding: { y: { ...y, field: "low" }, y2: { field: "high" }, color: colour },
      },
      {
        data: { values: shown.runs },
        mark: { type: "point", filled: true, size: 22, opacity: 0.55, xOffset: 7, aria: false },
        encoding: { y: { ...y, field: "value" }, color: colour, shape, tooltip: TIP },
      },
      {
        transform: [{ filter: "datum.chosen" }],
        mark: { type: "point", filled: false, size: 300, strokeWidth: 1.6, stroke: "var(--ink)", aria: false },
        encoding: { y: mean },
      },
      {
        mark: { type: "point", filled: true, size: 85, ...WHITE },
        encoding: { y: mean, color: colour, shape, opacity: PALE, tooltip: TIP, description: { field: "said" } },
      },
    ],
  };
}

// Strategies side by side, where the sweep has no axis of depth.
function strategyView(data, shown, title) {
  const y = { field: "name", type: "nominal", sort: null, title: null, axis: { labelLimit: 170, ticks: false } };
  const x = { type: "quantitative", title: null, scale: { domain: shown.domain, nice: true, zero: false } };
  x.axis = { tickCount: 8, labelOverlap: true, grid: true };
  const colour = { condition: { test: "datum.chosen", value: COLOURS[1] }, value: COLOURS[0] };
  return {
    title,
    height: { step: 26 },
    margin: NAMES,
    data: { values: shown.rows },
    encoding: { y },
    layer: [
      {
        mark: { type: "rule", strokeWidth: 1.6, aria: false },
        encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, color: colour },
      },
      {
        data: { values: shown.runs },
        mark: { type: "point", filled: true, size: 24, opacity: 0.4, aria: false, yOffset: 7 },
        encoding: { x: { ...x, field: "value" }, tooltip: TIP, color: { value: COLOURS[0] } },
      },
      {
        mark: { type: "point", filled: true, size: 95, ...WHITE },
        encoding: {
          x: { ...x, field: "mean" },
          opacity: PALE,
          color: colour,
          shape: { condition: { test: "datum.chosen", value: "diamond" }, value: "circle" },
          tooltip: TIP,
          description: { field: "said" },
        },
      },
    ],
  };
}

// The metric against what it costs; the line joins what nothing cheaper beats.
function costView(data, shown, title) {
  const costs = shown.rows.map((row) => row.cost).filter((cost) => cost > 0);
  const wide = costs.length && Math.max(...costs) / Math.min(...costs) > 20;
  const x = {
    field: "cost",
    type: "quantitative",
    title: data.costs[shown.cost],
    scale: wide ? { type: "log", nice: false, padding: 20 } : { zero: false, nice: false, padding: 20 },
    axis: { format: ".3~s", tickCount: 5, labelOverlap: true },
  };
  const y = { field: "mean", type: "quantitative", title: null, scale: { domain: shown.domain, nice: true, zero: false } };
  const colour = { field: "line", type: "nominal", scale: mapped(shown.lines, "colour"), legend: null };
  const shape = { field: "line", type: "nominal", scale: mapped(shown.lines, "shape"), legend: null };
  return {
    title,
    data: { values: shown.rows.filter((row) => row.cost > 0 || !wide) },
    encoding: { x, y },
    layer: [
      {
        transform: [{ filter: "datum.front" }],
        mark: { type: "line", interpolate: "step-after", strokeWidth: 1.5, color: "var(--soft)", aria: false },
      },
      {
        mark: { type: "point", filled: true, size: 85, ...WHITE },
        encoding: {
          color: colour,
          shape,
          opacity: { condition: { test: "datum.front", value: 1 }, value: 0.4 },
          tooltip: TIP,
          description: { field: "said" },
        },
      },
      // Names stand on the side where there is room.
      ...[["left", 6], ["right", -6]].map(([align, dx]) => ({
        transform: [{ filter: `datum.named === '${align}'` }],
        mark: { type: "text", align, baseline: "bottom", dx, dy: -5, fontSize: 11, limit: 120, aria: false },
        encoding: { text: { field: "short" }, color: { value: "var(--ink)" } },
      })),
    ],
  };
}

// Loss and metric of each epoch, a line for each run.
function curveView(shown, field, title) {
  const colour = shown.depths.length
    ? { field: "depth", type: "nominal", scale: { domain: shown.depths, range: shown.depthColours }, legend: null }
    : { field: "line", type: "nominal", scale: mapped(shown.lines, "colour"), legend: null };
  const dash = { field: "line", type: "nominal", scale: mapped(shown.lines, "dash"), legend: null };
  // Whole epochs alone: between few of them Vega's own ticks would say one twice.
  const last = Math.max(1, ...shown.epochs.map((one) => one.epoch));
  const step = Math.ceil(last / 8);
  const values = Array.from({ length: Math.ceil(last / step) }, (_, place) => 1 + place * step);
  const x = { field: "epoch", type: "quantitative", title: "epoch", axis: { values, format: "d" } };
  const y = { field, type: "quantitative", title: null, scale: { zero: false } };
  return {
    title,
    data: { values: shown.epochs },
    encoding: { x, y, color: colour },
    layer: [
      {
        params: [{ name: `over_${field}`, select: { type: "point", on: "pointerover", clear: "pointerout", fields: ["row"] } }],
        mark: { type: "line", strokeWidth: 1.6, aria: false },
        encoding: {
          detail: { field: "run" },
          strokeDash: dash,
          opacity: { condition: { param: `over_${field}`, value: 0.75 }, value: 0.08 },
          tooltip: TIP,
        },
      },
      {
        transform: [{ filter: "datum.kept" }],
        mark: { type: "point", filled: true, size: 34, opacity: 0.9 },
        encoding: { tooltip: TIP, description: { field: "said" } },
      },
    ],
  };
}

// A number for each row and layer group.
function changeView(shown, title) {
  return {
    title,
    height: { step: 22 },
    margin: NAMES,
    data: { values: shown.cells },
    mark: { type: "rect", stroke: "var(--paper)" },
    encoding: {
      x: { field: "group", type: "nominal", sort: null, title: null, axis: { labelAngle: -40, labelLimit: 90 } },
      y: { field: "name", type: "nominal", sort: null, title: null, axis: { labelLimit: 150, ticks: false } },
      color: {
        field: "value",
        type: "quantitative",
        scale: { ...SHADES, type: shown.reverse ? "linear" : "sqrt", reverse: shown.reverse, nice: true },
        legend: { title: null, orient: "bottom", gradientLength: 160, gradientThickness: 9, offset: 14, tickCount: 3 },
      },
      tooltip: TIP,
      description: { field: "said" },
    },
  };
}

// What each class is taken for, as shares of its samples.
function confusionView(shown, width) {
  const size = Math.max(14, Math.min(44, Math.floor((width - 190) / shown.classes.length)));
  const axis = { labelLimit: 120, ticks: false, domain: false };
  const place = { x: { field: "predicted", type: "nominal", sort: shown.classes, title: "predicted" } };
  place.x.axis = { ...axis, labelAngle: -50 };
  place.y = { field: "truth", type: "nominal", sort: shown.classes, title: "true", axis };
  const layer = [
    {
      mark: { type: "rect", stroke: "var(--line)", strokeWidth: 0.5 },
      encoding: {
        color: { field: "share", type: "quantitative", scale: { ...SHADES, domain: [0, 1] }, legend: null },
        tooltip: TIP,
        description: { field: "said" },
      },
    },
  ];
  if (size >= 24) {
    layer.push({
      transform: [{ filter: "datum.count > 0" }],
      mark: { type: "text", fontSize: 11, aria: false },
      encoding: {
        text: { field: "count" },
        color: { condition: { test: "datum.share > 0.5", value: "#ffffff" }, value: "#1c2024" },
      },
    });
  }
  return { width: { step: size }, height: { step: size }, data: { values: shown.cells }, encoding: place, layer };
}

// A colour for each of several depths: the middle of viridis, which is seen on white and on black.
function depthColours(count) {
  const stops = [[94, 201, 98], [33, 145, 140], [59, 82, 139]];
  return [...Array(count).keys()].map((place) => {
    const along = count > 1 ? (2 * place) / (count - 1) : 1;
    const [from, to] = [stops[Math.floor(along)], stops[Math.ceil(along)]];
    return `rgb(${from.map((part, channel) => Math.round(part + (to[channel] - part) * (along % 1))).join(" ")})`;
  });
}

// Several views as one chart of the width of its place, as many beside each other as there is room for.
function chartOf(views, width, description, height) {
  const margin = views[0].margin ?? NUMBERS;
  const most = Math.max(1, Math.min(views.length, Math.floor(width / (NARROWEST + margin))));
  const columns = Math.ceil(views.length / Math.ceil(views.length / most));
  const each = Math.floor(width / columns) - margin - 10;
  const sized = views.map(({ margin: _, ...view }) => ({ width: each, height, ...view }));
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    description,
    background: null,
    padding: { left: 0, right: 4, top: 6, bottom: 4 },
    config: {
      font: 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif',
      view: { stroke: null },
      axis: {
        labelColor: "var(--soft)", titleColor: "var(--soft)", labelFontSize: 12, titleFontSize: 12,
        titleFontWeight: "normal", titlePadding: 8, gridColor: "var(--line)", gridOpacity: 0.7,
        domainColor: "var(--soft)", tickColor: "var(--soft)", tickSize: 4,
      },
      axisX: { grid: false },
      axisY: { domain: false, ticks: false, minExtent: 34, labelPadding: 6 },
      legend: { labelColor: "var(--soft)", titleColor: "var(--soft)" },
      title: { color: "var(--ink)", anchor: "start", fontSize: 12.5, fontWeight: 600, offset: 8, limit: each },
      text: { color: "var(--ink)" },
    },
    ...(sized.length === 1 ? sized[0] : { concat: sized, columns, bounds: "flush", spacing: { column: margin + 10, row: 88 } }),
  };
}
