// What is written beside each array: its equation with its number, the shapes that meet in it, and how it is drawn.

/**
 * Return the rows of the derivation, forward and backward: {number, name, equation, note, rows, columns, kind}.
 *
 * The note is the shapes that meet, as the notes drew them, or what else there is to say. The kind is how values are
 * drawn: signed, positive, a picture, a mosaic of such, or a number. A first layer has the numbers that the notes'
 * first has, a last one those of their last, and all between those of their second.
 */
function derivationOf({ sizes, shape, maxValue }) {
  const K = sizes.length - 1;
  const { A, Z, delta } = namesOf(K);
  const c = sizes[K];
  const row = (number, name, right, note, rows, columns, kind = "signed") => ({
    ...{ number, name, equation: right ? `${name} = ${right}` : name, rows, columns, kind },
    note: unbroken(note ? `${rows} × ${columns} ${note}` : `${rows} × ${columns}`),
  });
  const bytes = `of ${shape.join(" × ")} bytes, divided by ${maxValue}`;
  const forwards = [row("", "X", "", bytes, 1, sizes[0], "picture")];
  for (let k = 1; k <= K; k++) {
    const [inputs, outputs] = [sizes[k - 1], sizes[k]];
    const first = k === K ? 5 : k === 1 ? 1 : 3;
    const shapes = `= (1 × ${inputs})(${inputs} × ${outputs}) + (1 × ${outputs})`;
    forwards.push(row(`F${first}`, Z[k - 1], `${A[k - 1]} W${k} + b${k}`, shapes, 1, outputs));
    if (k < K) forwards.push(row(`F${first + 1}`, A[k], `ReLU(${Z[k - 1]})`, "", 1, outputs, "positive"));
  }
  forwards.push(row("F6", "P", "softmax(S)", "", 1, c, "positive"));

  const backwards = [
    row("", "T", "", "with 1 at the label", 1, c, "positive"),
    { number: "F7", name: "L", equation: "L = −log P[label]", note: "1 × 1", kind: "number" },
    row("B1", "δS", "∂L/∂S = P − T", "", 1, c),
  ];
  for (let k = K; k >= 1; k--) {
    const [inputs, outputs] = [sizes[k - 1], sizes[k]];
    const first = k === K ? 2 : k === 1 ? 10 : 6;
    const d = delta[k - 1];
    const shapes = `= (${inputs} × 1)(1 × ${outputs})`;
    const kind = k === 1 ? "mosaic" : "signed";
    backwards.push(row(`B${first}`, `∂L/∂W${k}`, `${A[k - 1]}ᵀ ${d}`, shapes, inputs, outputs, kind));
    backwards.push(row(`B${first + 1}`, `∂L/∂b${k}`, `1ᵀ ${d}`, `= (1 × 1)(1 × ${outputs})`, 1, outputs));
    if (k === 1) break;
    const below = k - 1 === 1 ? 8 : 4;
    const [dA, z] = [`∂L/∂${A[k - 1]}`, Z[k - 2]];
    backwards.push(row(`B${below}`, dA, `${d} W${k}ᵀ`, `= (1 × ${outputs})(${outputs} × ${inputs})`, 1, inputs));
    const both = `= (1 × ${inputs}) ⊙ (1 × ${inputs})`;
    backwards.push(row(`B${below + 1}`, delta[k - 2], `ReLU′(${z}) ⊙ ${dA}`, both, 1, inputs));
  }
  return { forwards, backwards };
}

/** Return shapes as a text that breaks only between them. */
function unbroken(shapes) {
  return shapes.replace(/ × /g, "\u00a0×\u00a0").replace(/\)\(/g, ")\u200b(").replace(/([+⊙]) \(/g, "$1\u00a0(");
}

const UPRIGHT = new Set(["ReLU", "softmax", "log", "label"]);

/** Append an equation, set as one: letters in italics, their numbers below the line. */
function typeset(parent, equation) {
  for (const [part, letters, digits] of equation.matchAll(/([A-Za-z]+|[δη])(\d*)|[^A-Za-zδη]+/g)) {
    if (!letters) parent.append(part);
    else if (UPRIGHT.has(letters)) parent.append(element("span", { className: "upright" }, part));
    else parent.append(element("i", {}, letters));
    if (digits) parent.append(element("sub", {}, digits));
  }
  return parent;
}

/** Return a new element with properties, attributes (those with a dash, and role) and contents. */
function element(tag, properties = {}, ...contents) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...contents);
  return made;
}

/** Return a number in few signs: small and large ones with a power of ten. */
function shortly(value) {
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "0";
  if (size >= 1e-3 && size < 1e4) return sign + size.toFixed(size < 0.1 ? 4 : size < 10 ? 2 : 1);
  const [factor, exponent] = size.toExponential(1).split("e");
  return `${sign}${factor}·${powerOfTen(exponent)}`;
}

function powerOfTen(exponent) {
  const raised = String(Number(exponent)).replace(/./g, (digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]));
  return `10${raised}`;
}

/** Return numbers with as many places each, and the power of ten that they are counted in, "" for 1. */
function alike(values, size) {
  const exponent = size === 0 || (size >= 1e-2 && size < 1e3) ? 0 : Math.floor(Math.log10(size));
  const places = size / 10 ** exponent < 100 ? 2 : 1;
  const texts = Array.from(values, (value) => (value === 0 ? "0" : (value / 10 ** exponent).toFixed(places)));
  const signed = texts.map((text) => text.replace("-", Number(text) < 0 ? "−" : ""));
  return [signed, exponent ? powerOfTen(exponent) : ""];
}

/** Return a probability in per cent, such that only what is certain is 100. */
function percent(p) {
  if (Number.isNaN(p)) return "–"; // after a step so far that nothing is finite
  if (p > 0 && p < 0.001) return "< 0.1 %";
  if (p < 1 && p > 0.999) return "> 99.9 %";
  return `${(100 * p).toFixed(1)} %`;
}
