// --- pictures: decoded when they are seen --------------------------------------------------------
let pictureTexts = null;
const blobs = new Map(), addresses = new Map();
function blobOf(place) {
  pictureTexts ??= JSON.parse(find("picture-texts").textContent);
  if (!blobs.has(place)) blobs.set(place, new Blob([bytesOf(pictureTexts[place])], { type: "image/jpeg" }));
  return blobs.get(place);
}
function addressOf(place) {
  if (!addresses.has(place)) addresses.set(place, URL.createObjectURL(blobOf(place)));
  return addresses.get(place);
}

async function pixelsOf(place) {
  const image = await createImageBitmap(blobOf(place));
  const canvas = make("canvas", null, "", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return { canvas, context, pixels: context.getImageData(0, 0, image.width, image.height) };
}

// A canvas with the mean absolute difference over the channels, times two.
async function differenceOf(one, other) {
  const { canvas, context, pixels } = await pixelsOf(one);
  const mine = pixels.data, theirs = (await pixelsOf(other)).pixels.data;
  for (let i = 0; i < mine.length; i += 4) {
    const sum = Math.abs(mine[i] - theirs[i]) + Math.abs(mine[i + 1] - theirs[i + 1]) + Math.abs(mine[i + 2] - theirs[i + 2]);
    mine[i] = mine[i + 1] = mine[i + 2] = (sum / 3) * 2;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// --- one picture, large --------------------------------------------------------------------------
// `choices` are [name, place] of what can be compared; `left` and `right` are places.
function enlarge(title, choices, left, right) {
  find("large-title").textContent = title;
  for (const [id, place] of [["left", left], ["right", right]]) {
    find(id).replaceChildren();
    choices.forEach(([name, value]) => make("option", find(id), name, { value }));
    find(id).value = place;
  }
  compare();
  find("large").showModal();
  find("divider").focus();
}
async function compare() {
  const places = ["left", "right"].map((id) => Number(find(id).value));
  const isDifference = find("differs").checked;
  ["left", "right"].forEach((id, index) => { find(`${id}-image`).src = addressOf(places[index]); });
  find("left-image").style.clipPath = `inset(0 ${100 - find("divider").value}% 0 0)`;
  find("left-image").hidden = isDifference;
  find("divider").disabled = isDifference;
  find("right-image").hidden = isDifference;
  const canvas = find("difference");
  canvas.hidden = !isDifference;
  if (!isDifference) return;
  const made = await differenceOf(...places);
  [canvas.width, canvas.height] = [made.width, made.height];
  canvas.getContext("2d").drawImage(made, 0, 0);
}
for (const id of ["left", "right", "divider", "differs"]) find(id).addEventListener("input", compare);

// --- tables of pictures --------------------------------------------------------------------------
const near = new Map();
const nearWatcher = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
  if (!target.isConnected) { near.delete(target); nearWatcher.unobserve(target); return; }
  near.set(target, isIntersecting);
  if (isIntersecting) target.fill();
}), { rootMargin: "300px" });

// A button with a picture; `fill` puts it in, when it is seen.
function addPicture(parent, fill, onClick) {
  const button = make("button", parent);
  button.fill = () => fill(button);
  button.addEventListener("click", onClick);
  nearWatcher.observe(button);
  return button;
}
async function put(button, place, target) {
  const key = `${place} ${target}`;
  if (button.key === key) return;
  button.key = key;
  let node;
  if (target === undefined) {
    node = make("img", null, undefined, { alt: "", src: addressOf(place) });
    await node.decode();
  } else node = await differenceOf(place, target);
  // Another picture may have been wanted meanwhile.
  if (button.key === key) button.replaceChildren(node);
}
function onPictureKey(event) {
  const cell = event.target.closest("td"), move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move || !cell) return;
  const row = cell.parentNode.parentNode.rows[cell.parentNode.rowIndex + move[1]];
  const next = row?.cells[cell.cellIndex + move[0]]?.querySelector("button:enabled");
  if (!next) return;
  event.preventDefault();
  next.focus();
}
document.querySelectorAll("table.pictures").forEach((table) => table.addEventListener("keydown", onPictureKey));

// --- examples ------------------------------------------------------------------------------------
const epochs = [...new Set(data.generated.flatMap((pairs) => Object.values(pairs).flatMap((made) => Object.keys(made).map(Number))))].sort((a, b) => a - b);
function epochOf(run, pair) {
  const wanted = epochs[find("epoch").value];
  const mine = Object.keys(data.generated[run][pair] ?? {}).map(Number).filter((epoch) => epoch <= wanted);
  return mine.length ? Math.max(...mine) : null;
}

function fillGrid() {
  const grid = find("grid");
  grid.replaceChildren();
  const runs = shownRuns().filter((run) => Object.keys(data.generated[run]).length);
  grid.style.setProperty("--columns", runs.length + 2);
  const head = make("tr", grid);
  ["input", ...runs.map((run) => data.runs[run]), "target"].forEach((name) => make("th", head, name, { title: name }));
  data.pairs.forEach((places, pair) => {
    if (!runs.some((run) => pair in data.generated[run])) return;
    const row = make("tr", grid);
    const fixed = (kind) => {
      const button = addPicture(make("td", row), (node) => put(node, places[kind]), () => enlargePair(pair, places.input, places.target));
      button.ariaLabel = `Pair ${pair + 1}, ${kind}`;
    };
    fixed("input");
    for (const run of runs) {
      const place = () => data.generated[run][pair]?.[epochOf(run, pair)];
      addPicture(make("td", row), (button) => {
        button.disabled = place() === undefined;
        if (button.disabled) return;
        button.ariaLabel = `Pair ${pair + 1}, ${data.runs[run]}, epoch ${epochOf(run, pair)}`;
        put(button, place(), find("show").value === "difference" ? places.target : undefined);
      }, () => enlargePair(pair, places.target, place()));
    }
    fixed("target");
  });
}
function enlargePair(pair, left, right) {
  const { input, target } = data.pairs[pair];
  const choices = [["input", input], ["target", target]];
  for (const run of shownRuns()) {
    for (const [epoch, place] of Object.entries(data.generated[run][pair] ?? {})) choices.push([`${data.runs[run]}, epoch ${epoch}`, place]);
  }
  enlarge(`Pair ${pair + 1}`, choices, left, right);
}
function turn() {
  find("epoch-shown").textContent = epochs[find("epoch").value] ?? "";
  find("grid").querySelectorAll("button").forEach((button) => { if (near.get(button)) button.fill(); });
}

find("pictures-section").hidden = !epochs.length;
find("epoch").max = Math.max(0, epochs.length - 1);
find("epoch").value = find("epoch").max;
find("epoch").addEventListener("input", turn);
find("show").addEventListener("change", turn);
whenRunsChange.push(fillGrid);
fillGrid();
turn();
