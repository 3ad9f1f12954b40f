// What the reader chooses, and everything that is drawn anew by it.

const data = JSON.parse(document.getElementById("data").textContent);
const MOST_RUNS = 1500;
const state = {
  metric: data.metric,
  split: data.split,
  cost: "trainable",
  facet: "",
  seeds: data.runs.length <= MOST_RUNS,
  change: "",
  matrix: 0,
  hidden: new Set(),
};

// What the reader chose before the page reloaded itself.
const before = history.state?.report ?? null;

const definition = () => data.metrics.find((metric) => metric.name === state.metric);
const place = (name) => document.getElementById(`chart-${name}`);

function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

// What is shown of the data -------------------------------------------------------------------------------------------

const facets = () => data.facets.map((_, facet) => facet).filter((facet) => !state.facet || String(facet) === state.facet);
const lines = () => data.lines.map((_, line) => line).filter((line) => !state.hidden.has(line));
const isShown = (row) => !state.hidden.has(row.line) && (!state.facet || String(row.facet) === state.facet);

// What is told of a mark, for those who hear it.
const spoken = ({ title, ...told }) => [...(title ? [title] : []), ...Object.entries(told).map((pair) => pair.join(" "))].join(", ");

// The rows with the numbers of the chosen split and metric, those that are shown.
function rows() {
  const scores = data.scores[state.split]?.[state.metric];
  const metric = definition().label;
  const all = data.rows.map((row, index) => {
    const found = { ...row, index, metric };
    for (const name of ["mean", "sd", "low", "high", "n", "beaten"]) found[name] = scores ? scores[name][index] : null;
    found.cost = row.costs[state.cost];
    found.told = toldOf(found, data);
    found.said = spoken(found.told);
    return found;
  });
  return all.filter((row) => isShown(row) && row.mean !== null);
}

function runsOf(shown) {
  if (!state.seeds) return [];
  const values = data.values[state.split]?.[state.metric];
  const byIndex = new Map(shown.map((row) => [row.index, row]));
  const found = [];
  data.runs.forEach((run, index) => {
    const row = byIndex.get(run.row);
    if (!row || !values || run.repeats || run.state !== "done" || values[index] === null) return;
    const told = { title: row.label || "one run", ...run.seeds, [row.metric]: digits(values[index]), run: run.identity };
    found.push({ ...row, value: values[index], told });
  });
  return found;
}

// Lines that share a depth stand beside each other, not on one another.
function besideEachOther(shown) {
  const used = [...new Set(shown.map((row) => row.line))].sort((a, b) => a - b);
  const gap = Math.min(0.1, 0.4 / used.length);
  for (const row of shown) row.place = row.x + (used.indexOf(row.line) - (used.length - 1) / 2) * gap;
}

function markFront(shown) {
  const sign = definition().direction === "max" ? 1 : -1;
  const best = new Map();
  for (const row of [...shown].sort((a, b) => a.cost - b.cost || sign * (b.mean - a.mean))) {
    row.front = row.cost !== null && sign * row.mean > (best.get(row.facet) ?? -Infinity);
    if (row.front) best.set(row.facet, sign * row.mean);
    row.short = data.axis ? `${data.axis.counts ? "k = " : ""}${row.x}` : nameOf(row);
  }
  nameApart(shown.filter((row) => row.front));
}

// Names where they have room: the last of those that stand close together is the best of them.
function nameApart(front) {
  const across = (row) => Math.log(Math.max(row.cost, 1e-9));
  const up = (row) => row.mean;
  const range = (of) => Math.max(...front.map(of)) - Math.min(...front.map(of)) || 1;
  const [width, height, least] = [range(across), range(up), Math.min(...front.map(across))];
  for (const facet of facets()) {
    const named = [];
    for (const row of front.filter((one) => one.facet === facet).sort((a, b) => b.cost - a.cost)) {
      const free = named.every((one) => across(one) - across(row) > 0.12 * width || Math.abs(up(one) - up(row)) > 0.07 * height);
      if (free) row.named = across(row) - least < 0.6 * width ? "left" : "right";
      if (free) named.push(row);
    }
  }
}

const nameOf = (row) => data.lines[row.line] || row.label || "all runs";

// A name such as mAP keeps its small letter.
const capital = (text) => /^.[A-Z]/.test(text) ? text : text.charAt(0).toUpperCase() + text.slice(1);

function better() {
  return definition().direction === "min" ? ", lower is better" : "";
}

// One view for each panel, all on one scale.
function panels(of) {
  const shown = rows();
  if (data.axis?.counts) besideEachOther(shown);
  markFront(shown);
  const runs = runsOf(shown);
  const { lower, upper, label } = definition();
  const values = [...shown.flatMap((row) => [row.mean, row.low, row.high]), ...runs.map((run) => run.value)];
  const domain = padded(values, lower, upper);
  const title = `${label} on ${data.splits[state.split]}${better()}`;
  const views = facets().map((facet) => {
    const here = shown.filter((row) => row.facet === facet);
    const there = runs.filter((run) => run.facet === facet);
    for (const one of [...here, ...there]) one.name = nameOf(one);
    return of(data, { rows: here, runs: there, lines: lines(), domain, cost: state.cost }, data.facets[facet]);
  });
  return { views, title, beaten: shown.some((row) => row.beaten) };
}

// Charts --------------------------------------------------------------------------------------------------------------

const charts = {
  main: () => {
    const { views, title, beaten } = panels(data.axis ? depthView : strategyView);
    const by = data.axis ? `by ${data.axis.title}` : `of each ${data.compared[0]}`;
    const dots = state.seeds ? "; small dots are single runs" : "";
    const chosen = data.rows.some((row) => row.chosen || row.chosen_in_line) ? `; ${data.axis ? "the ring" : "the diamond"} is what validation chose` : "";
    return { views, title, height: 300, said: `${capital(title)}, ${by}: means over the runs with 95 % intervals${dots}${chosen}${beaten ? ", and another row beats the pale ones" : ""}. The table below has the numbers.` };
  },
  cost: () => {
    const { views, title } = panels(costView);
    return { views, title, height: 270, said: `${capital(title)}, against ${data.costs[state.cost]}, means over the runs. The line joins the settings that no cheaper one beats; the others are pale.` };
  },
  curves: () => {
    const byRun = new Map(data.curves.runs.map((curve) => [curve.run, curve]));
    const epochs = [];
    for (const [index, curve] of byRun) {
      const run = data.runs[index];
      const row = data.rows[run.row];
      if (!isShown(row)) continue;
      curve.loss.forEach((loss, epoch) => {
        const kept = epoch === curve.kept;
        const told = { title: row.label || "one run", ...run.seeds, run: run.identity };
        if (kept) Object.assign(told, { "epoch kept": epoch + 1, "training loss": digits(loss), ...(curve.metric.length ? { metric: digits(curve.metric[epoch]) } : {}) });
        const said = kept ? spoken(told) : "";
        epochs.push({ run: index, row: run.row, line: row.line, depth: row.x, epoch: epoch + 1, loss, metric: curve.metric[epoch] ?? null, kept, told, said });
      });
    }
    const depths = data.axis ? [...new Set(epochs.map((one) => one.depth))].sort((a, b) => a - b) : [];
    const shown = { epochs, lines: lines(), depths, depthColours: depthColours(depths.length) };
    const some = data.curves.runs.length < data.curves.of ? ` The first ${data.curves.runs.length} of ${data.curves.of} runs.` : "";
    const label = data.metrics[0].label;
    const validated = data.curves.runs.some((curve) => curve.metric.length);
    const views = [curveView(shown, "loss", "training loss"), ...(validated ? [curveView(shown, "metric", `validation ${label}`)] : [])];
    const key = depths.map((depth, index) => [shown.depthColours[index], `${data.axis.counts ? "k = " : ""}${depth}`]);
    return { views, height: 240, key, said: `Training loss${validated ? ` and validation ${label}` : ""} after each epoch, a line for each run. The dot is the epoch whose weights were kept.${some}` };
  },
  changes: () => {
    const views = data.changes.map(({ groups, rows: members }, network) => {
      const cells = [];
      for (const member of members) {
        const row = data.rows[member.row];
        if (!isShown(row)) continue;
        member[state.change].forEach((value, index) => {
          const told = { title: row.label || "all runs", "layer group": groups[index], [CHANGES[state.change]]: digits(value) };
          if (value !== null) cells.push({ name: row.label || "all runs", group: groups[index], value, told, said: spoken(told) });
        });
      }
      return changeView({ cells, reverse: state.change === "cka" }, data.changes.length > 1 ? `network ${network + 1}` : "");
    });
    return { views, said: `${capital(CHANGES[state.change])}, for each setting and layer group; darker: further from the source.` };
  },
  confusion: (width) => {
    const matrix = data.confusions[state.matrix];
    const cells = matrix.counts.flatMap((counts, truth) =>
      counts.map((count, predicted) => {
        const share = matrix.samples[truth] ? count / matrix.samples[truth] : 0;
        const told = { true: matrix.classes[truth], predicted: matrix.classes[predicted], images: count, share: `${(100 * share).toFixed(1)} %` };
        return { truth: matrix.classes[truth], predicted: matrix.classes[predicted], count, share, told, said: spoken(told) };
      }),
    );
    const some = matrix.classes.length < matrix.of ? ` The ${matrix.classes.length} of ${matrix.of} classes that are most often confused.` : "";
    return { views: [confusionView({ cells, classes: matrix.classes }, width)], said: `Images of each true class by the class predicted, summed over the runs; darker: a larger share of the true class.${some}` };
  },
};
const CHANGES = { relative: "distance from the source, relative", drift: "distance from the source", cka: "linear CKA with the source" };

const drawn = new Map();

// A single plot of costs needs no whole page's width.
function plotWidth(name, box) {
  return name === "cost" && facets().length === 1 ? Math.min(760, box.clientWidth) : box.clientWidth;
}

async function draw(name) {
  const box = place(name);
  if (!box) return;
  const width = Math.max(280, plotWidth(name, box));
  const { views, title, height, key, said } = charts[name](width);
  const plot = box.querySelector(".plot");
  const mine = (drawn.get(name) ?? 0) + 1;
  drawn.set(name, mine);
  box.querySelector("figcaption").textContent = said;
  box.querySelector(".title").textContent = capital(title ?? "");
  box.querySelector(".key").replaceChildren(...(key ?? []).map(([colour, text]) => element("span", {}, sample(colour), text)));
  // Interpreted, not compiled: the page forbids eval.
  const made = await vegaEmbed(document.createElement("div"), chartOf(views, width, said, height), { actions: false, ast: true, renderer: "svg", tooltip: { theme: "custom" } });
  if (drawn.get(name) !== mine) return made.finalize();
  box.made?.finalize();
  box.made = made;
  plot.replaceChildren(made.view.container());
}

// Controls ------------------------------------------------------------------------------------------------------------

function choice(label, options, key, names) {
  const select = element("select", { id: `choose-${key}` });
  for (const [value, text] of options) select.append(element("option", { value, textContent: text, selected: String(value) === String(state[key]) }));
  select.addEventListener("change", () => {
    state[key] = select.value;
    refresh(names);
  });
  return element("label", { className: "choice" }, element("span", { textContent: label }), select);
}

function swatch(line) {
  const { colour, shape, dash } = look(line);
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const forms = {
    circle: "M8 8m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", square: "M4.5 4.5h7v7h-7z", "triangle-up": "M8 3.5l4.5 8h-9z",
    diamond: "M8 3l4 5-4 5-4-5z", cross: "M6.5 3.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z", "triangle-down": "M8 12.5l4.5-8h-9z",
  };
  drawing.setAttribute("viewBox", "-4 0 24 16");
  drawing.setAttribute("aria-hidden", "true");
  for (const [d, dashes] of [["M-4 8h24", dash.join(" ")], [forms[shape], ""]]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    path.setAttribute(dashes || d.startsWith("M-4") ? "stroke" : "fill", colour);
    if (d.startsWith("M-4")) path.setAttribute("stroke-width", "2");
    if (dashes) path.setAttribute("stroke-dasharray", dashes);
    drawing.append(path);
  }
  return drawing;
}

// A stretch of a line in a colour of its own.
function sample(colour) {
  const made = element("i");
  made.style.borderTopColor = colour;
  return made;
}

function strategies() {
  const set = element("fieldset", {}, element("legend", { textContent: capital(data.compared[1]) }));
  const boxes = data.lines.map((name, line) => {
    const box = element("input", { type: "checkbox", checked: !state.hidden.has(line), value: String(line) });
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](line);
      refresh();
    });
    set.append(element("label", { className: "chip" }, box, ...(data.axis ? [swatch(line)] : []), element("span", { textContent: name || "all runs" })));
    return box;
  });
  for (const [text, checked] of [["all", true], ["none", false]]) {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", () => {
      boxes.forEach((box) => (box.checked = checked));
      state.hidden = new Set(checked ? [] : data.lines.keys());
      refresh();
    });
    set.append(button);
  }
  return set;
}

function controls() {
  const bar = document.getElementById("controls");
  const metrics = data.metrics.map(({ name, label }) => [name, label]);
  if (metrics.length > 1) bar.append(choice("Metric", metrics, "metric", ["main", "cost", "runs"]));
  const splits = Object.entries(data.splits);
  if (splits.length > 1) bar.append(choice("Images", splits, "split", ["main", "cost"]));
  if (data.facets.length > 1) bar.append(choice("Panel", [["", "all"], ...data.facets.map((name, facet) => [facet, name])], "facet"));
  const seeds = element("input", { type: "checkbox", id: "choose-seeds", checked: state.seeds });
  seeds.addEventListener("change", () => {
    state.seeds = seeds.checked;
    refresh(["main"]);
  });
  bar.append(element("label", { className: "choice tick" }, seeds, element("span", { textContent: "single runs" })));
  if (data.lines.length > 1) bar.append(strategies());
  bar.hidden = false;
}

// Every chart gets its place, and what is chosen for it alone.
function furnish() {
  const own = {
    cost: () => choice("Cost", Object.entries(data.costs), "cost", ["cost"]),
    changes: () => {
      const there = (key) => data.changes.some(({ rows: members }) => members.some((member) => member[key].some((value) => value !== null)));
      const measures = Object.entries(CHANGES).filter(([key]) => there(key));
      if (!measures.some(([key]) => key === state.change)) state.change = measures[0]?.[0] ?? "relative";
      return choice("Measure", measures, "change", ["changes"]);
    },
    confusion: () => choice("Row", data.confusions.map(({ row }, index) => [index, data.rows[row].label || "all runs"]), "matrix", ["confusion"]),
  };
  for (const name of Object.keys(charts)) {
    const box = place(name);
    if (!box) continue;
    box.append(...(own[name] ? [element("div", { className: "own" }, own[name]())] : []));
    const parts = ["title", "key", "plot"].map((className) => element("div", { className }));
    box.append(element("figure", {}, ...parts, element("figcaption")));
    box.hidden = false;
  }
}

// The table of runs ---------------------------------------------------------------------------------------------------

let table = null;

function runRows() {
  const value = (split, index) => data.values[split]?.[state.metric]?.[index] ?? null;
  return data.runs.map((run, index) => ({
    ...run,
    settings: data.rows[run.row].settings,
    val: value("val", index),
    test: value("test", index),
    visible: isShown(data.rows[run.row]),
  }));
}

function number(field, heading, most) {
  // Sorted by the number, shown by its digits.
  const render = (value, kind) => (kind === "display" ? digits(value, most) : (value ?? -Infinity));
  return { data: field, heading, className: "n", render, type: "num" };
}

function runsTable() {
  const box = place("runs");
  if (!box || !data.runs.length) return;
  box.hidden = false;
  const node = element("table", {});
  box.append(node);
  const text = (field, heading) => ({ data: field, heading, render: escaped });
  const link = (value, kind, run) => {
    if (kind !== "display") return value;
    // The first digits tell the runs of a sweep apart.
    return element(run.record ? "a" : "span", { ...(run.record ? { href: run.record } : {}), textContent: value.slice(0, 8), title: value });
  };
  // By function: a name may hold a point, which DataTables would take for a path.
  const settings = Object.keys(data.rows[0].settings).map((name) => ({ data: (run) => run.settings[name] ?? "", heading: name, render: escaped }));
  const seeds = Object.keys(data.runs[0].seeds).map((name) => ({ data: (run) => run.seeds[name], heading: name, render: escaped }));
  const scores = Object.keys(data.splits).filter((split) => split === "val" || split === "test");
  const { default: DataTable, set_or_remove_dark_class: followDarkness } = window.DataTables;
  followDarkness();
  const columns = [
    text("state", "state"), ...settings, ...seeds, ...scores.map((split) => number(split, data.splits[split], 4)),
    number("epochs", "epochs", 4), number("costs.trainable", "trainable", 4), number("costs.seconds", "seconds", 3),
    number("costs.memory", "MiB", 4), { data: "identity", heading: "record", render: link },
    ...(data.runs.some((run) => run.note) ? [text("note", "note")] : []),
  ].map((column) => ({ defaultContent: "", ...column }));
  // A heading to sort by, as text and no markup, and below it a place for the column's own filter.
  node.append(element("thead", {}, element("tr", {}, ...columns.map(({ heading }) => element("th", { scope: "col", textContent: heading }))), element("tr", {}, ...columns.map(() => element("td")))));
  table = new DataTable(node, {
    data: runRows(),
    columns,
    orderCellsTop: true,
    columnControl: { target: 1, content: ["search"] },
    order: [],
    pageLength: 20,
    lengthMenu: [20, 50, 100, { label: "all", value: -1 }],
    autoWidth: false,
    deferRender: true,
    search: { smart: false },
    stateSave: true,
    stateSaveCallback: () => {},
    stateLoadCallback: () => before?.table ?? null,
    language: {
      search: "Filter", lengthMenu: "_MENU_ runs a page", info: "_START_ to _END_ of _TOTAL_ runs", infoEmpty: "no run",
      infoFiltered: "(of _MAX_)", emptyTable: "no run", zeroRecords: "no such run",
    },
  });
  table.search.fixed("shown", (_, run) => run.visible);
  table.draw();
}

function escaped(value, kind) {
  if (kind !== "display") return value ?? "";
  return element("span", { textContent: value ?? "" });
}

function renewTable() {
  if (!table) return;
  table.clear().rows.add(runRows()).draw();
}

// A state at the top of the page filters the table to it.
function states() {
  for (const item of document.querySelectorAll(".states li")) {
    const button = element("button", { type: "button", textContent: item.textContent });
    button.addEventListener("click", () => {
      table?.search(item.className).draw();
      place("runs")?.scrollIntoView({ block: "start" });
    });
    item.replaceChildren(button);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function refresh(names = [...Object.keys(charts), "runs"]) {
  if (names.includes("runs")) renewTable();
  for (const name of names) if (charts[name]) await draw(name);
  const shown = data.lines.length - state.hidden.size;
  document.getElementById("said").textContent = `Shown: ${definition().label} on ${data.splits[state.split]}, ${shown} of ${data.lines.length} ${data.compared[1]}.`;
}

// While runs are to come ----------------------------------------------------------------------------------------------

const titled = (summary) => `${summary.closest("section")?.querySelector("h2")?.textContent ?? ""} ${summary.textContent}`;

// What stands above it may grow from page to page.
const topOfMain = () => document.querySelector("main").getBoundingClientRect().top;

// By name: a page with more runs may have more lines, panels and matrices.
function remember() {
  const { metric, split, cost, seeds, change, facet, matrix, hidden } = state;
  const report = {
    metric, split, cost, seeds, change,
    facet: data.facets[facet] ?? "",
    matrix: data.rows[data.confusions[matrix]?.row]?.label ?? "",
    hidden: [...hidden].map((line) => data.lines[line]),
    table: table?.state() ?? null,
    open: [...document.querySelectorAll("details[open] > summary")].map(titled),
    pause: document.getElementById("pause")?.checked ?? false,
    top: topOfMain(),
  };
  history.scrollRestoration = "manual";
  history.replaceState({ report: JSON.parse(JSON.stringify(report)) }, "");
}

function recall() {
  if (!before) return;
  const there = { metric: data.metrics.map(({ name }) => name), split: Object.keys(data.splits), cost: Object.keys(data.costs) };
  for (const [key, names] of Object.entries(there)) if (names.includes(before[key])) state[key] = before[key];
  const facet = data.facets.indexOf(before.facet);
  state.facet = before.facet && facet >= 0 ? String(facet) : "";
  state.matrix = Math.max(0, data.confusions.findIndex(({ row }) => data.rows[row].label === before.matrix));
  state.hidden = new Set(before.hidden.map((name) => data.lines.indexOf(name)).filter((line) => line >= 0));
  Object.assign(state, { seeds: before.seeds, change: before.change });
  for (const summary of document.querySelectorAll("details > summary")) if (before.open.includes(titled(summary))) summary.parentElement.open = true;
}

// Not under the hands of a reader who writes or chooses, and not while nobody looks.
function reloading() {
  if (data.reload === null) {
    history.scrollRestoration = "auto";
    return history.replaceState(null, "");
  }
  const pause = element("input", { type: "checkbox", id: "pause", checked: before?.pause ?? false });
  document.getElementById("coming").append(" ", element("label", {}, pause, element("span", { textContent: "pause" })));
  const busy = () => pause.checked || document.hidden || document.activeElement?.matches("input:not([type=checkbox]), select");
  setInterval(() => {
    if (busy()) return;
    remember();
    location.reload();
  }, 1000 * data.reload);
}

// ---------------------------------------------------------------------------------------------------------------------

document.documentElement.classList.add("live");
recall();
controls();
furnish();
runsTable();
states();
await refresh();
document.documentElement.classList.add("drawn");
if (before) window.scrollBy(0, topOfMain() - before.top);
reloading();

let width = document.documentElement.clientWidth;
let waiting = 0;
window.addEventListener("resize", () => {
  if (document.documentElement.clientWidth === width) return;
  width = document.documentElement.clientWidth;
  clearTimeout(waiting);
  waiting = setTimeout(() => refresh(Object.keys(charts)), 150);
});
