// The page: what is written goes through the equations at each change, and every array is shown beside its own.

const model = JSON.parse(document.getElementById("model").textContent);
const layers = layersOf(readParameters(document.getElementById("parameters").textContent), model.sizes);
const derivation = derivationOf(model);
const state = { bytes: null, arrays: {}, after: {}, label: -1, rate: 0.001, milliseconds: 0 };
const find = (id) => document.getElementById(id);

/** Return numbers from base64 of float32, little endian. */
function readParameters(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (sign) => sign.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Recompute everything from the picture on the canvas. */
function compute() {
  state.bytes = normalise(paper.picture(), model.shape, model.maxValue, model.form);
  state.arrays = {};
  state.after = {};
  if (!state.bytes) return;
  const X = Float64Array.from(state.bytes, (byte) => byte / model.maxValue);
  state.arrays = forward(layers, X);
  if (state.label < 0) return;
  Object.assign(state.arrays, backward(layers, state.arrays, state.label));
  const { P, S } = forward(stepped(layers, state.arrays, state.rate), X);
  state.after = { P, L: Float64Array.of(-logSoftmax(S)(S[state.label])) };
}

const rows = []; // functions that show an array each

/** Append a row for each line of the derivation. */
function lay(list, lines) {
  for (const line of lines) {
    const equation = typeset(element("div", { className: "equation" }), line.equation);
    const note = element("div", { className: "note" }, line.note);
    const number = element("div", { className: "number" }, line.number);
    const text = element("div", { className: "text" }, equation, note);
    const item = element("li", { className: "row" }, number, text);
    if (line.kind === "number") {
      const value = element("div", { className: "value" });
      item.append(value);
      rows.push((arrays) => (value.textContent = arrays.L ? shortly(arrays.L[0]) : ""));
    } else {
      const map = makeMap(line, model.shape, model.classNames);
      item.append(map.figure);
      rows.push((arrays) => map.show(arrays[line.name] ?? null));
    }
    list.append(item);
  }
}

const reading = makeBars(model.classNames, ["now"]);
const moving = makeBars(model.classNames, ["before", "after"]);
find("probabilities").append(reading.list);
find("moves").append(moving.list);

function show() {
  const { arrays, after, label } = state;
  for (const row of rows) row(arrays);
  reading.show(arrays.P);
  moving.show(arrays.P, after.P);
  document.body.classList.toggle("unread", !arrays.P);
  document.body.classList.toggle("unlabelled", label < 0);
  const best = arrays.P ? arrays.P.indexOf(Math.max(...arrays.P)) : -1;
  find("read").textContent = best < 0 ? "–" : model.classNames[best];
  find("certainty").textContent = best < 0 ? "nothing is written" : percent(arrays.P[best]);
  find("moved").textContent = after.P
    ? `P of ${model.classNames[label]}: ${percent(arrays.P[label])} before, ${percent(after.P[label])} after; ` +
      `L: ${shortly(arrays.L[0])} before, ${shortly(after.L[0])} after.`
    : "";
}

function redraw() {
  const start = performance.now();
  compute();
  show();
  state.milliseconds = performance.now() - start;
  clearTimeout(redraw.waiting);
  redraw.waiting = setTimeout(tell, 700);
}

/** Say what is read, once nothing has changed for a while, to those who do not see it. */
function tell() {
  const read = `Reads ${find("read").textContent}, ${find("certainty").textContent}. ${find("moved").textContent}`;
  say(state.arrays.P ? read : "Nothing is written");
}

/** Redraw before the browser shows its next picture, once for all that has changed until then. */
function change() {
  change.asked ??= requestAnimationFrame(() => {
    change.asked = null;
    redraw();
  });
}

function say(text) {
  find("said").textContent = text;
}

const paper = makePaper(find("paper"), find("pen"), change, say);
find("clear").addEventListener("click", paper.clear);
find("undo").addEventListener("click", paper.undo);

for (const digit of Object.keys(EXAMPLES).filter((digit) => model.classNames.includes(digit))) {
  const button = element("button", { type: "button", "aria-label": `Write a ${digit}` }, digit);
  button.addEventListener("click", () => paper.example(digit));
  find("examples").append(button);
}
find("examples").hidden = !find("examples").querySelector("button");

["none", ...model.classNames].forEach((name, k) => {
  const radio = element("input", { type: "radio", name: "label", value: k - 1, checked: k === 0 });
  radio.addEventListener("change", () => {
    state.label = k - 1;
    change();
  });
  find("labels").append(element("label", {}, radio, element("span", {}, name)));
});

find("rate").addEventListener("input", ({ target }) => {
  if (!(target.valueAsNumber >= 0)) return; // not yet a number
  state.rate = target.valueAsNumber;
  find("slide").value = Math.log10(Math.max(state.rate, 1e-5));
  change();
});
find("slide").addEventListener("input", ({ target }) => {
  state.rate = Number((10 ** target.valueAsNumber).toPrecision(2));
  find("rate").value = state.rate;
  change();
});

const parameters = layers.reduce((sum, { W, b }) => sum + W.length + b.length, 0).toLocaleString("en");
const cast = model.dtype === "float32" ? "float32" : `float32, cast from ${model.dtype}`;
find("facts").textContent = `${model.sizes.join("-")}, trained on ${model.dataset} · ${parameters} parameters, ${cast}`;
lay(find("forwards"), derivation.forwards);
lay(find("backwards"), derivation.backwards);
document.querySelectorAll("[data-equation]").forEach((place) => typeset(place, place.dataset.equation));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColours();
  change();
});
readColours();
paper.draw();

/** What tests and the curious read: the present numbers, by their names. */
window.xpmlp = { model, state, redraw, picture: () => find("paper").toDataURL() };
