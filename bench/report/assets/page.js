"use strict";
// The plot of one group of rows at the reader's choice, and the table of all rows. Any text of a row may come from a foreign
// file: it enters the page as text nodes, through Tabulator's escaping formatters, or escaped for Plotly.

const DASH = "–";
const GROUP = ["device", "backend", "precision", "batch_size", "threads", "interval"];
const X = ["latency_ms", "throughput", "gmacs", "params_m", "storage_mb"];
const Y = ["top1", "top5"];
// Okabe and Ito's colours less the yellow, which is lost on white. Seven colours and ten shapes make seventy families.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const SHAPES = ["circle", "square", "diamond", "triangle-up", "star", "cross", "triangle-down", "pentagon", "x", "hexagon"];
const NUMBERS = new Set(["batch_size", "threads", "latency_ms", "p90_ms", "p99_ms", "min_ms", "mean_ms", "throughput", "top1",
  "top5", "gmacs", "params_m", "storage_mb", "first_ms", "load_ms", "build_ms", "export_ms", "peak_memory_mb",
  "parity_max_error", "repetitions"]);
const AS_PRINTED = new Set(["batch_size", "threads", "top1", "top5", "repetitions"]);

const { fields, words } = JSON.parse(document.getElementById("data").textContent);
const rows = unpacked(fields);
const families = distinct(rows, "family");
const sources = distinct(rows, "source");
const chosen = {};


// Rows

function unpacked(fields) {
  const columns = Object.entries(fields).map(([name, { values, at }]) => [name, values.map(oneLine), at]);
  const count = columns[0][2].length;
  return Array.from({ length: count }, (_, place) =>
    Object.fromEntries(columns.map(([name, values, at]) => [name, values[at[place]]])));
}

// What moves a cursor, breaks a line or reverses a direction is made a blank.
function oneLine(value) {
  if (Array.isArray(value)) return value.map(oneLine);
  return typeof value === "string" ? value.replace(/[\p{C}\p{Z}]+/gu, " ").trim() : value;
}

function distinct(from, field) {
  return [...new Set(from.map((row) => row[field]))];
}

function filled(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// 0.512, 5.91, 42.3, 1234; as many decimals as `like` gets.
function figure(value, like = value) {
  if (value === null) return DASH;
  const decimals = like ? 2 - Math.floor(Math.log10(Math.abs(like))) : 0;
  return value.toFixed(Math.min(100, Math.max(0, decimals)));
}

function shown(row, field) {
  const value = row[field];
  if (field === "latency_ms") return withInterval(value, row.ci_low_ms, row.ci_high_ms);
  if (field === "threads" && value === 0) return words.not_stated;
  if (field === "parity_max_error") return value === null ? DASH : value.toExponential(1);
  if (AS_PRINTED.has(field)) return value === null ? DASH : String(value);
  return figure(value);
}

function withInterval(value, low, high) {
  const ends = low === null || high === null ? "" : ` [${figure(low, value)}, ${figure(high, value)}]`;
  return figure(value) + ends;
}

function doubts(row) {
  const status = row.status === "ok" ? [] : [`${row.status}: ${row.reason}`];
  return [...status, row.validity.join(", "), ...row.evidence].filter(Boolean).join("; ");
}

function origin(row) {
  const where = row.source === "published" ? row.document : filled(words.run, { id: row.run_id });
  return row.campaign ? `${where} (${row.campaign})` : where;
}

function settings(row) {
  return oneLine([row.weights, ...Object.entries(row.options).map(([name, value]) => `${name}=${value}`)]
    .filter(Boolean).join(", "));
}


// The front, as bench/pareto.py has it

function dominates(one, other) {
  const cheaper = one.high < other.low;
  return (one.worth >= other.worth && cheaper) || (one.worth > other.worth && one.high <= other.low);
}

function front(choices) {
  return choices.map((other) => !choices.some((one) => dominates(one, other)));
}

// The horizontal value and its interval; a missing interval has no width.
function spread(row, axis) {
  const value = row[axis];
  let [low, high] = [value, value];
  if (row.ci_low_ms !== null && row.ci_high_ms !== null) {
    if (axis === "latency_ms") [low, high] = [row.ci_low_ms, row.ci_high_ms];
    if (axis === "throughput") [low, high] = [row.ci_high_ms, row.ci_low_ms].map((ms) => (row.batch_size / ms) * 1e3);
  }
  return { value, low, high };
}

function choice(row, x, y) {
  const { low, high } = spread(row, x);
  return x === "throughput" ? { low: -high, high: -low, worth: row[y] } : { low, high, worth: row[y] };
}

// Those of the rows, of one source each, that are on the front, cheapest first.
function members(of, x, y) {
  const on = front(of.map((row) => choice(row, x, y)));
  const sign = x === "throughput" ? -1 : 1;
  return of.filter((_, place) => on[place]).sort((a, b) => sign * (a[x] - b[x]) || a[y] - b[y]);
}

function grouped(of, by) {
  const groups = new Map();
  for (const row of of) {
    const key = JSON.stringify(by.map((field) => row[field]));
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  return [...groups.values()];
}


// What the reader chooses

function element(tag, text, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.textContent = text;
  return made;
}

function select(name, values, text) {
  const control = element("select", "", { id: `choose-${name}` });
  control.addEventListener("change", () => {
    chosen[name] = control.values[control.selectedIndex];
    settle();
  });
  const field = element("div", "");
  field.append(element("label", words.choices[name], { htmlFor: control.id }), control);
  document.getElementById("choices").append(field);
  fill(control, values, text);
}

function fill(control, values, text) {
  control.values = values;
  control.replaceChildren(...values.map((value) => element("option", text(value))));
}

function checkbox(name) {
  const control = element("input", "", { type: "checkbox", id: `choose-${name}`, checked: chosen[name] });
  control.addEventListener("change", () => {
    chosen[name] = control.checked;
    settle();
  });
  const label = element("label", "", { className: "check" });
  label.append(control, ` ${words.choices[name]}`);
  document.getElementById("choices").append(label);
}

function inGroup(row, fields = GROUP) {
  return fields.every((field) => row[field] === chosen[field]);
}

// Each control offers what exists together with those before it; a choice that no longer exists gives way to the first.
function settle() {
  GROUP.forEach((field, place) => {
    const there = distinct(rows.filter((row) => inGroup(row, GROUP.slice(0, place))), field);
    if (typeof there[0] === "number") there.sort((a, b) => a - b);
    if (!there.includes(chosen[field])) chosen[field] = there[0];
    const control = document.getElementById(`choose-${field}`);
    fill(control, there, (value) => (field === "threads" && value === 0 ? words.not_stated : String(value)));
    control.selectedIndex = there.indexOf(chosen[field]);
  });
  draw();
  filterRows();
}

function drawable(row) {
  return row.status === "ok" && row[chosen.x] !== null && row[chosen.y] !== null;
}

function sound(row) {
  return row.validity.length === 0;
}


// The plot

function draw() {
  const group = rows.filter((row) => inGroup(row));
  const known = group.filter(drawable);
  const drawn = chosen.sound ? known.filter(sound) : known;
  const fronts = grouped(drawn, ["source"]).map((of) => members(of, chosen.x, chosen.y));
  const traces = grouped(drawn, ["family", "source"]).map(points);
  Plotly.react("plot", [...fronts.map(stairs), ...traces], layout(), CONFIG);
  listFront(fronts.flat());
  caption(group, known, drawn);
}

function points(of) {
  const place = families.indexOf(of[0].family);
  const hollow = quotedBeside(of[0]);
  const colour = COLOURS[place % COLOURS.length];
  const spreads = of.map((row) => spread(row, chosen.x));
  return {
    type: "scatter",
    mode: "markers",
    name: escaped(of[0].family) + (hollow ? ` (${words.published})` : ""),
    x: spreads.map(({ value }) => value),
    y: of.map((row) => row[chosen.y]),
    error_x: {
      type: "data",
      symmetric: false,
      array: spreads.map(({ value, high }) => high - value),
      arrayminus: spreads.map(({ value, low }) => value - low),
      visible: spreads.some(({ low, high }) => low !== high),
      color: colour,
      thickness: 1,
      width: 3,
    },
    marker: {
      color: colour,
      symbol: SHAPES[place % SHAPES.length] + (hollow ? "-open" : ""),
      size: 9,
      opacity: of.map((row) => (sound(row) ? 1 : 0.4)),
      line: hollow ? { width: 2 } : { width: 0.5, color: "#ffffff" },
    },
    text: of.map((row) => describe(row).map(escaped).join("<br>")),
    hovertemplate: "%{text}<extra></extra>",
  };
}

// A published row where there are measured ones, too.
function quotedBeside(row) {
  return sources.length > 1 && row.source === "published";
}

// Rings around the members, joined where accuracy rises with cost: under uncertainty others stand beside those.
function stairs(of) {
  let best = -Infinity;
  const [rising, beside] = [[], []];
  for (const row of of) {
    (row[chosen.y] > best ? rising : beside).push(row);
    best = Math.max(best, row[chosen.y]);
  }
  const path = [...rising, ...beside.flatMap((row) => [null, row])];
  return {
    type: "scatter",
    mode: "lines+markers",
    name: words.front + (sources.length > 1 ? ` (${words[of[0].source]})` : ""),
    x: path.map((row) => row && row[chosen.x]),
    y: path.map((row) => row && row[chosen.y]),
    line: { shape: "hv", color: "#5c6b7a", width: 1.5, dash: quotedBeside(of[0]) ? "dot" : "solid" },
    marker: { symbol: "circle-open", size: 16, color: "#1f2933", line: { width: 1.5 } },
    hoverinfo: "skip",
  };
}

// The record in lines short enough for a narrow screen.
function describe(row) {
  const lines = [
    `${row.model} · ${row.family}`,
    `${shown(row, "latency_ms")} ms · p90 ${figure(row.p90_ms)} · ${figure(row.throughput)} ${words.columns.throughput}`,
    `${words.columns.top1} ${shown(row, "top1")} · ${words.columns.top5} ${shown(row, "top5")}`,
    `${figure(row.gmacs)} GMACs · ${words.columns.params_m} ${figure(row.params_m)} · ${words.columns.storage_mb} ${figure(row.storage_mb)}`,
    `${row.device} · ${row.backend} · ${row.precision}`,
    `${words.columns.batch_size} ${row.batch_size} · ${words.columns.threads} ${shown(row, "threads")} · ${row.interval}`,
    `${words[row.source]} · ${origin(row)}`,
    doubts(row),
  ];
  return lines.filter(Boolean).flatMap((line) => wrapped(line, 56));
}

function wrapped(line, width) {
  return line.match(new RegExp(`.{1,${width}}(?:\\s+|$)|.{1,${width}}`, "gu")).map((part) => part.trim());
}

// Plotly reads a few tags and entities in its texts.
function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

const CONFIG = {
  responsive: true,
  displaylogo: false,
  displayModeBar: true,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  locale: document.documentElement.lang,
  locales: { [document.documentElement.lang]: { dictionary: words.plotly } },
};

function layout() {
  const narrow = window.innerWidth <= 600;
  const axis = { gridcolor: "#e6eaee", linecolor: "#9aa5b1", zeroline: false, ticks: "outside", tickcolor: "#9aa5b1" };
  return {
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13, color: "#1f2933" },
    margin: { l: narrow ? 48 : 64, r: 12, t: 60, b: 52 },
    title: {
      text: GROUP.map((field) => escaped(groupWord(field, chosen[field]))).filter(Boolean).join(" · "),
      font: { size: narrow ? 10 : 13 },
      ...{ x: 0, xref: "paper", xanchor: "left", y: 1, yref: "paper", yanchor: "bottom", pad: { b: 8 } },
    },
    xaxis: { ...axis, type: chosen.log ? "log" : "linear", title: { text: words.axes[chosen.x] }, automargin: true },
    yaxis: { ...axis, title: { text: words.axes[chosen.y] }, automargin: true },
    hovermode: "closest",
    hoverlabel: { align: "left", bgcolor: "#ffffff", bordercolor: "#9aa5b1", font: { size: narrow ? 10 : 12, color: "#1f2933" } },
    showlegend: !narrow,
    legend: { itemsizing: "constant", font: { size: 12 } },
    // A new group starts with its own range; a new look at the same one keeps the reader's.
    uirevision: JSON.stringify([...GROUP, "x", "y", "log"].map((name) => chosen[name])),
  };
}

// What the title says of a choice, so that the picture tells by itself what it shows.
function groupWord(field, value) {
  if (typeof value !== "number") return value;
  return value === 0 ? "" : `${words.choices[field]} ${value}`;
}

function listFront(of) {
  const titles = [words.columns.model, words.axes[chosen.x], words.axes[chosen.y], words.columns.source, words.columns.doubts];
  const head = element("tr", "");
  head.append(...titles.map((title) => element("th", title, { scope: "col" })));
  const lines = of.map((row) => {
    const line = element("tr", "");
    const cells = [row.model, shown(row, chosen.x), shown(row, chosen.y), words[row.source], doubts(row)];
    line.append(...cells.map((cell) => element("td", cell)));
    return line;
  });
  document.getElementById("front").replaceChildren(element("caption", words.front_list), head, ...lines);
}

function caption(group, known, drawn) {
  const missing = group.length - known.length;
  const hidden = known.length - drawn.length;
  document.getElementById("caption").textContent = [
    filled(words.drawn, { shown: drawn.length, all: group.length }),
    missing && filled(words.missing, { count: missing }),
    hidden && filled(words.hidden, { count: hidden }),
    drawn.every(sound) ? "" : words.pale,
    sources.length > 1 && words.hollow,
  ].filter(Boolean).join(" ");
}


// The table

// Of long texts, which are broken over lines, in px.
const WIDTHS = { doubts: 480, origin: 420, settings: 200, model: window.innerWidth > 600 ? 260 : 150 };
let table;

function makeTable() {
  const onFront = new Set(grouped(rows.filter((row) => row.status === "ok" && row.latency_ms !== null && row.top1 !== null),
    [...GROUP, "source"]).flatMap((of) => members(of, "latency_ms", "top1")));
  const data = rows.map((row, id) => ({
    ...row, id, row, doubts: doubts(row), origin: origin(row), settings: settings(row), source: words[row.source],
    front: onFront.has(row) ? words.yes : "",
  }));
  const known = Object.keys(words.columns).filter((field) => data.some((line) => ![null, "", 0].includes(line[field])));
  table = new Tabulator("#rows", {
    data,
    height: "70vh",
    layout: "fitDataFill",
    placeholder: words.nothing,
    columns: known.map((field) => column(field, data)),
  });
  table.on("tableBuilt", () => {
    table.getColumns().forEach(sortByKey);
    filterRows();
  });
  table.on("dataFiltered", (_, kept) => {
    document.getElementById("count").textContent = filled(words.rows_shown, { shown: kept.length, all: rows.length });
  });
}

// Tabulator fits a column to the lines it has drawn, which are the first ones.
function widest(field, data) {
  return 24 + 8 * data.reduce((most, line) => Math.max(most, line[field].length), 0);
}

function column(field, data) {
  const number = NUMBERS.has(field);
  return {
    title: words.columns[field],
    field,
    frozen: field === "model" && window.innerWidth > 600,
    hozAlign: number ? "right" : "left",
    sorter: number ? "number" : "string",
    sorterParams: { alignEmptyValues: "bottom" },
    headerSortTristate: true,
    ...(number ? { formatter: (cell) => document.createTextNode(shown(cell.getData().row, field)) } : {}),
    ...(field in WIDTHS ? { formatter: "textarea", width: Math.min(WIDTHS[field], widest(field, data)) } : {}),
    ...(number || field in WIDTHS ? {} : { minWidth: widest(field, data) }),
    headerFilter: "input",
    headerFilterFunc: number ? (wanted, value, line) => numberFits(wanted, value, shown(line.row, field)) : "like",
    headerFilterParams: { elementAttributes: { "aria-label": filled(words.filter, { column: words.columns[field] }) } },
    headerFilterPlaceholder: " ",
  };
}

// `4` is the number as shown or in full; what is no number yet, as while one types, filters nothing.
function numberFits(wanted, value, cell) {
  const [, sign, first, last] = /^\s*(<=|>=|<|>)?\s*(\d+(?:\.\d+)?)(?:\s*\.\.\s*(\d+(?:\.\d+)?))?\s*$/.exec(wanted) ?? [];
  if (first === undefined) return true;
  if (value === null) return false;
  const bound = Number(first);
  if (last !== undefined) return bound <= value && value <= Number(last);
  const tests = { "<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound };
  return tests[sign] ?? (value === bound || parseFloat(cell) === bound);
}

function sortByKey(of) {
  const header = of.getElement();
  header.tabIndex = 0;
  header.addEventListener("keydown", (event) => {
    if (event.target === header && ["Enter", " "].includes(event.key)) {
      event.preventDefault();
      header.click();
    }
  });
}

function filterRows() {
  if (!table?.initialized) return;
  if (document.getElementById("only-group").checked) table.setFilter((line) => inGroup(line.row));
  else table.clearFilter();
}


// Start: the group that has most to draw

function start() {
  document.querySelectorAll(".live").forEach((section) => section.removeAttribute("hidden"));
  Object.assign(chosen, { x: X[0], y: Y[0], log: true, sound: false });
  const largest = grouped(rows, GROUP).reduce((one, other) =>
    other.filter(drawable).length > one.filter(drawable).length ? other : one);
  GROUP.forEach((field) => {
    chosen[field] = largest[0][field];
    select(field, [], String);
  });
  select("x", X, (axis) => words.axes[axis]);
  select("y", Y, (axis) => words.axes[axis]);
  checkbox("log");
  checkbox("sound");
  document.getElementById("only-group").addEventListener("change", filterRows);
  settle();
  makeTable();
}

// Paper has no lids to open, and its own width: A4 on its side, less the margins of page.css.

const PAPER_PX = 1000;

window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details:not([open])").forEach((lid) => {
    lid.open = true;
    lid.dataset.printed = "";
  });
  Plotly.relayout("plot", { width: PAPER_PX });
});
window.addEventListener("afterprint", () => {
  document.querySelectorAll("details[data-printed]").forEach((lid) => {
    lid.open = false;
    delete lid.dataset.printed;
  });
  Plotly.relayout("plot", { width: undefined, autosize: true });
});

start();
