"use strict";
const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);

function make(tag, parent, text, properties) {
  const node = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

// --- runs ----------------------------------------------------------------------------------------
const COLORS = ["#2f7ed8", "#e07b12", "#2a9d62", "#d6455d", "#8b63d1", "#a0713f", "#d65db1", "#7d8590", "#9aa420", "#17a2b8"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const colorOf = (run) => COLORS[run % COLORS.length];
const dashOf = (run) => DASHES[Math.floor(run / COLORS.length) % DASHES.length];
const shown = new Set([...data.runs.keys()].slice(0, COLORS.length));
const shownRuns = () => [...shown].sort((a, b) => a - b);
const whenRunsChange = [];

function makeLegend() {
  const buttons = data.runs.map((name, run) => {
    const button = make("button", find("legend"));
    make("i", button, "", { className: "swatch" }).style.background = colorOf(run);
    button.append(name);
    button.addEventListener("click", () => choose(shown.has(run) ? shownRuns().filter((each) => each !== run) : [...shown, run]));
    return button;
  });
  function choose(runs) {
    shown.clear();
    runs.forEach((run) => shown.add(run));
    tell();
    whenRunsChange.forEach((change) => change());
  }
  function tell() {
    buttons.forEach((button, run) => button.setAttribute("aria-pressed", shown.has(run)));
  }
  for (const [text, runs] of [["All", [...data.runs.keys()]], ["None", []]]) {
    make("button", find("legend"), text).addEventListener("click", () => choose(runs));
  }
  find("legend").hidden = data.runs.length < 2;
  tell();
}

// Few runs side by side, many below each other.
function makeRunsTable() {
  const { columns, rows, best } = data.table;
  const cell = (line, run, column) => {
    const text = rows[run][column];
    const node = make("td", line, text);
    if (best[column][run]) node.className = "best";
    if (columns[column] === "status") node.className = text.split(":")[0];
    if (text.length > 40) node.classList.add("long");
  };
  const table = find("runs");
  const head = make("tr", table);
  if (data.runs.length <= 4) {
    ["", ...data.runs].forEach((name) => make("th", head, name));
    columns.forEach((name, column) => {
      const line = make("tr", table);
      make("th", line, name);
      data.runs.forEach((_, run) => cell(line, run, column));
    });
  } else {
    ["run", ...columns].forEach((name) => make("th", head, name));
    data.runs.forEach((name, run) => {
      const line = make("tr", table);
      make("th", line, name);
      columns.forEach((_, column) => cell(line, run, column));
    });
  }
}

makeLegend();
makeRunsTable();
