// --- arrays --------------------------------------------------------------------------------------
const TYPES = { f: Float32Array, d: Float64Array, i: Int32Array };
const arrays = new Map();
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
function arrayAt(place) {
  if (!arrays.has(place)) {
    const text = data.arrays[place];
    arrays.set(place, new TYPES[text[0]](bytesOf(text.slice(1)).buffer));
  }
  return arrays.get(place);
}

// --- charts --------------------------------------------------------------------------------------
// Plotly reads some HTML in texts.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const colorNamed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };

function layoutOf(title, more) {
  const axis = { gridcolor: colorNamed("--line"), zeroline: false, automargin: true };
  return {
    title: { text: plain(title), x: 0.03, font: { size: 14 } },
    margin: { l: 12, r: 16, t: 40, b: 46 }, showlegend: false,
    paper_bgcolor: colorNamed("--surface"), plot_bgcolor: colorNamed("--surface"),
    font: { family: "system-ui, sans-serif", size: 12, color: colorNamed("--muted") },
    ...more, xaxis: { ...axis, exponentformat: "none", ...more.xaxis },
    yaxis: { ...axis, exponentformat: "e", ...more.yaxis },
  };
}

// The moving average of TensorBoard: corrected for its start, values that are not finite left out.
function smoothed(values, weight) {
  let mean = 0, count = 0;
  return Array.from(values, (value) => {
    if (!Number.isFinite(value)) return value;
    mean = weight * mean + (1 - weight) * value;
    return mean / (1 - weight ** ++count);
  });
}

function tracesOf(curve, x, weight, isStep) {
  const values = arrayAt(curve.value);
  const color = colorOf(curve.run), shape = isStep ? "hv" : "linear";
  const base = { type: "scatter", x: arrayAt(curve[x]), name: plain(data.runs[curve.run]) };
  const line = { color, dash: dashOf(curve.run), shape, width: 1.7 };
  const traces = [];
  if (curve.low !== undefined && !isStep) {
    const edge = { ...base, mode: "lines", line: { color, width: 0 }, hoverinfo: "skip", connectgaps: true };
    traces.push({ ...edge, y: arrayAt(curve.low), meta: "low" });
    traces.push({ ...edge, y: arrayAt(curve.high), meta: "high", fill: "tonexty", fillcolor: `${color}26` });
  }
  if (weight) traces.push({ ...base, mode: "lines", y: values, meta: "value", opacity: 0.25, hoverinfo: "skip", line });
  const isAlone = values.length === 1;
  traces.push({
    ...base, mode: isAlone ? "markers" : "lines", line, marker: { color },
    y: weight ? smoothed(values, weight) : values, meta: weight ? "smooth" : "value",
  });
  return traces;
}

const charts = new Map();
const visible = new Set();
const watcher = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
  if (!isIntersecting) visible.delete(target);
  else { visible.add(target); if (charts.get(target).isOld) draw(target); }
}), { rootMargin: "200px" });

function draw(node) {
  const chart = charts.get(node), x = find("x").value;
  chart.isOld = false;
  const curves = chart.curves.filter((curve) => shown.has(curve.run) && curve[x] !== null);
  const weight = chart.isLoss ? Number(find("smoothing").value) : 0;
  const isPositive = curves.every((curve) => arrayAt(curve.low ?? curve.value).every((value) => !(value <= 0)));
  const bad = curves.reduce((sum, curve) => sum + curve.nonfinite, 0);
  Plotly.react(node, curves.flatMap((curve) => tracesOf(curve, x, weight, chart.isStep)), layoutOf(
    bad ? `${chart.series} (${bad} not finite)` : chart.series,
    {
      hovermode: "x", uirevision: x, xaxis: { title: { text: x, standoff: 8 } },
      yaxis: { type: find("log").checked && isPositive ? "log" : "linear" },
    },
  ), CONFIG);
}

function onChartKey(event) {
  const node = event.currentTarget;
  if (!node.layout) return;
  const [low, high] = node.layout.xaxis.range;
  const middle = (low + high) / 2, width = high - low;
  const look = (at, span) => Plotly.relayout(node, { "xaxis.range": [at - span / 2, at + span / 2] });
  if (event.key === "+" || event.key === "=") look(middle, width / 2);
  else if (event.key === "-") look(middle, width * 2);
  else if (event.key === "ArrowLeft") look(middle - width / 4, width);
  else if (event.key === "ArrowRight") look(middle + width / 4, width);
  else if (event.key === "0") Plotly.relayout(node, { "xaxis.autorange": true, "yaxis.autorange": true });
  else return;
  event.preventDefault();
}

function redraw() {
  charts.forEach((chart) => { chart.isOld = true; });
  visible.forEach(draw);
}

function makeCharts() {
  let isThinned = false;
  for (const group of data.groups) {
    const mine = data.curves.filter((curve) => curve.group === group);
    const every = Math.max(...mine.map((curve) => curve.every));
    isThinned ||= every > 1;
    make("h3", find("charts"), every > 1 ? `${group} (up to every ${every}th point)` : group);
    const row = make("div", find("charts"), "", { className: "row" });
    const isLoss = group.startsWith("Losses") || group.startsWith("Gradients");
    const isStep = group === "Weights" || group === "Learning rates";
    for (const series of new Set(mine.map((curve) => curve.series))) {
      const node = make("div", row, "", { className: "chart", tabIndex: 0, role: "figure", ariaLabel: `${group}: ${series}` });
      charts.set(node, { series, isLoss, isStep, isOld: true, curves: mine.filter((curve) => curve.series === series) });
      node.addEventListener("keydown", onChartKey);
      watcher.observe(node);
    }
  }
  find("thinned").hidden = !isThinned;
  find("curves-section").hidden = !data.groups.length;
}

for (const id of ["x", "log"]) find(id).addEventListener("change", redraw);
find("smoothing").addEventListener("input", () => {
  find("smoothing-shown").textContent = find("smoothing").value;
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
whenRunsChange.push(redraw);
makeCharts();
