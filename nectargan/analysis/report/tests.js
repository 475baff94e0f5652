// --- tests ---------------------------------------------------------------------------------------
const tests = data.tests;

function makeTestsTable() {
  const names = Object.keys(tests.metrics);
  const head = make("tr", find("tests"));
  ["run", "split", "measured on"].forEach((text) => make("th", head, text));
  for (const name of names) {
    const { label, unit, higher } = tests.metrics[name];
    make("th", head, `${label}${unit && ` (${unit})`} ${higher ? "↑" : "↓"}`, { title: higher ? "higher is better" : "lower is better" });
  }
  for (const record of tests.records) {
    const line = make("tr", find("tests"));
    make("th", line, data.runs[record.run]);
    make("td", line, record.split);
    make("td", line, record.how);
    for (const name of names) {
      const [value, interval] = record.cells[name] ?? ["", ""];
      const cell = make("td", line, value);
      if (record.best.includes(name)) cell.className = "best";
      if (interval) { make("br", cell); make("small", cell, interval); }
    }
  }
  for (const warning of new Set(tests.records.flatMap((record) => record.warnings))) make("p", find("warnings"), warning, { className: "note" });
}

const chosenRecords = () => tests.records.filter((record) => shown.has(record.run) && record.split === find("split").value && find("metric").value in record.values);

function drawSpread() {
  const name = find("metric").value, { label, unit } = tests.metrics[name];
  const traces = chosenRecords().map((record) => ({
    type: "box", name: plain(data.runs[record.run]), y: arrayAt(record.values[name]), boxpoints: "all", jitter: 0.5, pointpos: 0,
    text: tests.images[record.images].map(plain), marker: { color: colorOf(record.run), size: 4, opacity: 0.55 }, line: { width: 1.3 },
    fillcolor: `${colorOf(record.run)}22`, hoveron: "points",
  }));
  const title = `${label}${unit && ` (${unit})`} of each image`;
  Plotly.react(find("spread"), traces, layoutOf(title, { xaxis: {}, yaxis: {} }), CONFIG);
}

// --- the best and the worst images ---------------------------------------------------------------
const FEW = 4;
function fillImages() {
  const table = find("images"), name = find("metric").value, { higher } = tests.metrics[name];
  table.replaceChildren();
  const records = chosenRecords().filter((record) => Object.keys(record.pictures).length);
  find("images-scroll").hidden = !records.length;
  if (!records.length) return;
  const head = make("tr", table);
  ["", "best", "worst"].forEach((text, i) => make("th", head, text, { colSpan: i ? FEW : 1 }));
  for (const record of records) {
    const values = arrayAt(record.values[name]);
    const order = [...values.keys()].filter((row) => !Number.isNaN(values[row])).sort((a, b) => (higher ? values[b] - values[a] : values[a] - values[b]));
    const line = make("tr", table);
    make("th", line, data.runs[record.run]);
    for (let i = 0; i < 2 * FEW; i++) {
      const cell = make("td", line);
      // With few images, one may be among the best and the worst.
      const row = i < FEW ? order[i] : order[Math.max(0, order.length - FEW) + i - FEW];
      if (row in record.pictures) addImage(make("figure", cell), record, row, values[row]);
    }
  }
}
function addImage(figure, record, row, value) {
  const [input, generated, target] = record.pictures[row];
  const image = tests.images[record.images][row];
  const text = `${image}: ${value.toPrecision(4)}`;
  const choices = [["input", input], [`generated, ${data.runs[record.run]}`, generated], ["target", target]];
  for (const other of chosenRecords()) {
    if (other !== record && other.images === record.images && row in other.pictures) choices.push([`generated, ${data.runs[other.run]}`, other.pictures[row][1]]);
  }
  const button = addPicture(figure, (node) => put(node, generated), () => enlarge(text, choices, target, generated));
  button.ariaLabel = `${data.runs[record.run]}, ${text}`;
  make("figcaption", figure, text, { title: text });
}

function makeTests() {
  find("tests-section").hidden = !tests.records.length;
  if (!tests.records.length) return;
  makeTestsTable();
  const single = Object.keys(tests.metrics).filter((name) => tests.records.some((record) => name in record.values));
  single.forEach((value) => make("option", find("metric"), tests.metrics[value].label, { value }));
  [...new Set(tests.records.map((record) => record.split))].forEach((split) => make("option", find("split"), split));
  find("images-section").hidden = !single.length;
  if (!single.length) return;
  const change = () => { drawSpread(); fillImages(); };
  for (const id of ["metric", "split"]) find(id).addEventListener("change", change);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSpread);
  whenRunsChange.push(change);
  change();
}

makeTests();
