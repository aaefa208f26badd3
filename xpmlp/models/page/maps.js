// Arrays as pictures: a pixel an element, which the browser enlarges. The colours are the style sheet's, so that they
// follow light and dark.

const MOST_TILES = 256; // of W1's gradient
const MOST_CELLS = 256; // along each side of a matrix; of a larger one each cell is the greatest of several elements
const FEW = 16; // elements that are shown with their numbers

let palettes = null;

/** Read the colours again: [negative … zero … positive], [zero … greatest], [paper … ink], as 32-bit pixels. */
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const numbers = (hex) => hex.match(/\w\w/g).map((digits) => parseInt(digits, 16));
  const colours = (name) => style.getPropertyValue(name).split(",").map(numbers);
  palettes = Object.fromEntries(["signed", "positive", "picture"].map((kind) => [kind, blend(colours(`--${kind}`))]));
  palettes.mosaic = palettes.signed;
}

/** Return 511 pixels that go evenly through some colours. */
function blend(colours) {
  const pixels = new Uint32Array(511);
  const bytes = new Uint8ClampedArray(pixels.buffer);
  for (let i = 0; i < pixels.length; i++) {
    const place = (i / (pixels.length - 1)) * (colours.length - 1);
    const k = Math.min(Math.floor(place), colours.length - 2);
    for (let j = 0; j < 3; j++) bytes[4 * i + j] = colours[k][j] + (place - k) * (colours[k + 1][j] - colours[k][j]);
    bytes[4 * i + 3] = 255;
  }
  return pixels;
}

/** Return how an array is drawn: {height, width, at}; at(y, x) is the element there, or −1 if there is none. */
function planOf({ name, rows, columns, kind }, shape) {
  if (kind === "picture") return { height: shape[0], width: shape[1], at: (y, x) => y * shape[1] + x };
  if (kind === "mosaic") return mosaicOf(columns, shape);
  if (rows === 1) {
    const width = columns <= FEW ? columns : Math.min(columns, columns > 1024 ? 64 : 32);
    const at = (y, x) => (y * width + x < columns ? y * width + x : -1);
    return { height: Math.ceil(columns / width), width, at, note: columns > width ? `${width} to a line` : "" };
  }
  // A tall matrix lies on its side, which a page has more room for.
  const turned = rows > columns;
  const [height, width] = turned ? [columns, rows] : [rows, columns];
  const [down, across] = [height, width].map((length) => Math.ceil(length / MOST_CELLS));
  const at = turned ? (y, x) => x * columns + y : (y, x) => y * columns + x;
  const pooled = down * across > 1 ? `a cell is the greatest of ${down} × ${across}` : "";
  const note = [turned ? "drawn on its side" : "", pooled].filter(Boolean).join("; ");
  return { height, width, at, down, across, note };
}

/** Return the plan of W1's gradient: for each hidden unit a tile, of the image's form. */
function mosaicOf(units, [height, width]) {
  const tiles = Math.min(units, MOST_TILES);
  const across = Math.min(tiles, Math.ceil(Math.sqrt(tiles)));
  const [tall, wide] = [height + 1, width + 1]; // a line between tiles
  const at = (y, x) => {
    const [row, column] = [y % tall, x % wide];
    const unit = Math.floor(y / tall) * across + Math.floor(x / wide);
    return row < height && column < width && unit < tiles ? (row * width + column) * units + unit : -1;
  };
  const which = tiles < units ? `the first ${tiles} of ${units} units` : `${units} units`;
  const note = `${which}, a tile of ${height} × ${width} each`;
  return { height: Math.ceil(tiles / across) * tall - 1, width: across * wide - 1, at, note };
}

/** Return the element that shows an array, with the function `show(values)`, or `show(null)` for none. */
function makeMap(row, shape, classNames) {
  const plan = planOf(row, shape);
  const { down = 1, across = 1 } = plan;
  const height = Math.ceil(plan.height / down);
  const width = Math.ceil(plan.width / across);
  const canvas = element("canvas", { width, height, role: "img" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const places = new Int32Array(plan.height * plan.width);
  places.forEach((_, i) => (places[i] = plan.at(Math.floor(i / plan.width), i % plan.width)));
  const scale = makeScale(row.kind);
  const isFew = row.rows === 1 && row.columns <= FEW && row.columns === classNames.length;
  const cells = isFew ? makeCells(classNames) : null;
  const form = isFew ? "few" : row.rows > 1 ? "matrix" : "";
  const figure = element("figure", { className: `map ${row.kind} ${form}` }, canvas);
  figure.style.setProperty("--columns", width);
  if (row.kind === "mosaic") figure.style.setProperty("--cell", `${Math.min(3, Math.max(1.15, 480 / width))}px`);
  const pointed = element("span", { className: "pointed", "aria-hidden": "true" });
  const caption = element("figcaption", {}, scale.bar, plan.note ?? "", pointed);
  if (cells) {
    figure.append(cells.list);
    pointed.before(cells.unit);
  }
  figure.append(caption);
  let shown = null;
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", () => (pointed.textContent = ""));

  /** Say which element is under the pointer, and its value. */
  function point(event) {
    const x = Math.floor((event.offsetX / canvas.clientWidth) * plan.width);
    const y = Math.floor((event.offsetY / canvas.clientHeight) * plan.height);
    const i = places[Math.min(y, plan.height - 1) * plan.width + Math.min(x, plan.width - 1)];
    const place = `${row.name}[${Math.floor(i / row.columns) + 1}, ${(i % row.columns) + 1}]`;
    pointed.textContent = shown && i >= 0 ? `${place} = ${shortly(shown[i])}` : "";
  }

  function show(values) {
    figure.classList.toggle("empty", !values);
    shown = values;
    const range = values && rangeOf(values);
    canvas.setAttribute("aria-label", describe(row, range));
    scale.show(range);
    cells?.show(values, range);
    pixels.fill(0);
    if (values) colour(values, range.size);
    context.putImageData(image, 0, 0);
  }

  function colour(values, size) {
    const palette = palettes[row.kind];
    const signed = row.kind === "signed" || row.kind === "mosaic";
    const most = row.kind === "picture" ? 1 : size || 1;
    const [middle, factor] = signed ? [255, 255 / most] : [0, 510 / most];
    if (down * across === 1) {
      for (let i = 0; i < places.length; i++) {
        if (places[i] >= 0) pixels[i] = palette[(middle + factor * values[places[i]] + 0.5) | 0];
      }
      return;
    }
    const strongest = new Float64Array(pixels.length);
    for (let y = 0, i = 0; y < plan.height; y++) {
      const start = Math.floor(y / down) * width;
      for (let x = 0; x < plan.width; x++, i++) {
        const value = values[places[i]];
        const cell = start + Math.floor(x / across);
        if (Math.abs(value) > Math.abs(strongest[cell])) strongest[cell] = value;
      }
    }
    for (let i = 0; i < pixels.length; i++) pixels[i] = palette[(middle + factor * strongest[i] + 0.5) | 0];
  }
  return { figure, show };
}

/** Return the least and the greatest of some values, and the greatest size. */
function rangeOf(values) {
  let least = Infinity;
  let most = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (values[i] < least) least = values[i];
    if (values[i] > most) most = values[i];
  }
  return { least, most, size: Math.max(-least, most) };
}

/** Return what a screen reader says of an array. */
function describe({ name, rows, columns }, range) {
  if (!range) return `${name}: nothing yet`;
  return `${name}, ${rows} × ${columns}, from ${shortly(range.least)} to ${shortly(range.most)}`;
}

/** Return a bar of the colours with the values at its ends: from −m to m for signed ones, else from 0 to m. */
function makeScale(kind) {
  const signed = kind === "signed" || kind === "mosaic";
  const [low, high] = [element("span"), element("span")];
  const bar = element("span", { className: `scale ${signed ? "signed" : kind}`, "aria-hidden": "true" });
  bar.append(low, element("span", { className: "colours" }), high);
  const show = (range) => {
    const most = range ? shortly(kind === "picture" ? 1 : range.size) : "";
    low.textContent = signed && range?.size ? `−${most}` : "0";
    high.textContent = most;
  };
  return { bar, show };
}

/** Return the list of a row's few numbers, one for each class, below their cells, and the unit that they are in. */
function makeCells(classNames) {
  const numbers = classNames.map(() => element("span"));
  const items = classNames.map((name, k) => element("li", {}, element("b", {}, name), numbers[k]));
  const list = element("ol", { className: "cells" }, ...items);
  const unit = element("span", { className: "unit" });
  const show = (values, range) => {
    const [texts, power] = values ? alike(values, range.size) : [[], ""];
    numbers.forEach((number, k) => (number.textContent = texts[k] ?? ""));
    unit.textContent = power ? `numbers in ${power}` : "";
  };
  return { list, unit, show };
}

/** Return bars of probabilities, of several kinds (before, after) for each class; of many classes the most probable. */
function makeBars(classNames, kinds) {
  const list = element("ul", { className: "bars", role: "list" });
  const rows = classNames.map((name) => {
    const lines = kinds.map((kind) => {
      const [bar, number] = [element("span", { className: "bar" }), element("span", { className: "number" })];
      const track = element("span", { className: "track" }, bar);
      return { bar, number, line: element("span", { className: `line ${kind}` }, track, number) };
    });
    const item = element("li", {}, element("b", {}, name), element("span"));
    item.lastChild.append(...lines.map(({ line }) => line));
    list.append(item);
    return { item, lines };
  });
  const show = (...probabilities) => {
    const best = classNames.map((_, k) => Math.max(...probabilities.map((P) => (P ? P[k] : 0))));
    const least = [...best].sort((a, b) => b - a)[Math.min(FEW, best.length) - 1];
    rows.forEach(({ item, lines }, k) => {
      item.hidden = best[k] < least;
      lines.forEach(({ bar, number }, which) => {
        const P = probabilities[which];
        bar.style.width = `${P ? 100 * P[k] : 0}%`;
        number.textContent = P ? percent(P[k]) : "";
      });
      item.classList.toggle("most", Boolean(probabilities[0]) && probabilities[0][k] === Math.max(...probabilities[0]));
    });
  };
  return { list, show };
}
