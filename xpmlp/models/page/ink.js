// From a drawing to the model's form: the steps by which `xpmlp predict` brings a picture of one character to that of
// MNIST's images (xpmlp/data/pictures.py), which are meant for scans. Here the ink is known to be dark; all that
// follows is the same, with the same numbers, so that both make the same bytes of the same picture.
//
// A grid is {height, width, values}, its values row by row.

const BOX = 20 / 28; // how much of an image's height or width, whichever it fills first, a character has in MNIST
const FAINTEST = 0.1; // what is darker than the paper by less than this part of it is no ink
const THINNEST = 2.1 / 20; // of the character's size: the width to which strokes are thickened

/** Return the bytes that the model takes for a square picture of grey values (0 black, 255 white), or null: no ink. */
function normalise(picture, shape, maxValue) {
  const ink = inkOf(picture);
  if (!ink) return null;
  return Uint8Array.from(placed(thickened(ink), shape), (value) => roundHalfEven(value * maxValue));
}

/** Return how much of each pixel is ink, from 0 to 1, cut out along the character's edges, or null. */
function inkOf({ height, width, values: greys }) {
  const n = height * width;
  const values = Float32Array.from(greys, (grey) => grey / 255);
  const smooth = filtered({ height, width, values }, gaussian(1), gaussian(1));
  // What the filter changes is noise. A drawing has none, unless half of its pixels lie at an edge.
  const changes = values.map((value, i) => Math.abs(value - smooth.values[i]));
  let noise = changes.reduce((count, change) => count + (change < 1e-6), 0) * 2 > n ? 0 : 1.48 * median(changes) * 0.28;
  const paper = closed(smooth, Math.max(1, Math.floor(Math.max(height, width) / 6)));
  const contrast = smooth.values.map((value, i) => 1 - (value + 3 * noise) / paper[i]);
  if (noise > 0) noise /= median(paper);

  let squares = 0;
  let cubes = 0;
  const faintest = Math.max(5 * noise, FAINTEST);
  for (const value of contrast) {
    if (value > faintest) {
      squares += value ** 2;
      cubes += value ** 3;
    }
  }
  const level = squares > 0 ? cubes / squares : 0; // a mean in which the darkest count most
  if (level < Math.max(8 * noise, FAINTEST)) return null;
  const ink = contrast.map((value) => clip((value / level - 0.3) / 0.4));
  return withoutSpecks({ height, width, values: ink });
}

/** Return the character without the pieces that are no part of it, cut out along its edges, or null. */
function withoutSpecks(ink) {
  const { height, width, values } = ink;
  const { pieces, count } = piecesOf(ink);
  const mass = new Float64Array(count + 1);
  const atBorder = new Uint8Array(count + 1);
  for (let i = 0; i < pieces.length; i++) {
    const row = Math.floor(i / width);
    const column = i % width;
    mass[pieces[i]] += values[i];
    if (row === 0 || column === 0 || row === height - 1 || column === width - 1) atBorder[pieces[i]] = 1;
  }
  mass[0] = 0;
  const greatest = (numbers) => numbers.reduce((most, value) => Math.max(most, value), 0);
  if (greatest(mass.filter((_, k) => !atBorder[k])) > 0.3 * greatest(mass)) {
    for (let k = 1; k <= count; k++) if (atBorder[k]) mass[k] = 0; // cut through by the border
  }
  slopesBeside(ink, pieces, count).forEach((slope, k) => {
    if (slope < 0.1) mass[k] = 0; // it ends more softly than ink
  });

  const least = 0.05 * greatest(mass);
  const kept = (i) => mass[pieces[i]] > least;
  const extent = boxAround(height, width, kept);
  if (!extent || Math.max(extent.height, extent.width) < Math.max(3, 0.02 * Math.max(height, width))) return null;
  const cleaned = new Float32Array(values.length); // the pieces that are kept, and their edges
  for (let row = extent.top - 2; row < extent.top + extent.height + 2; row++) {
    for (let column = extent.left - 2; column < extent.left + extent.width + 2; column++) {
      if (row < 0 || column < 0 || row >= height || column >= width) continue;
      const i = row * width + column;
      if (kept(i) || (pieces[i] === 0 && values[i] > 0 && near(row, column, height, width, 2, kept))) cleaned[i] = values[i];
    }
  }
  return cut({ height, width, values: cleaned }, boxAround(height, width, (i) => cleaned[i] > 0));
}

/** Return each pixel's piece, a number from 1 to count, or 0 where there is no ink; pieces may touch at corners. */
function piecesOf({ height, width, values }) {
  const pieces = new Int32Array(values.length);
  const waiting = [];
  let count = 0;
  for (let start = 0; start < values.length; start++) {
    if (values[start] < 0.5 || pieces[start]) continue;
    pieces[start] = ++count;
    waiting.push(start);
    while (waiting.length) {
      const i = waiting.pop();
      near(Math.floor(i / width), i % width, height, width, 1, (j) => {
        if (values[j] >= 0.5 && !pieces[j]) {
          pieces[j] = count;
          waiting.push(j);
        }
        return false;
      });
    }
  }
  return { pieces, count };
}

/** Return, for each piece, the median steepness of the ink at the pixels that touch it from outside. */
function slopesBeside(ink, pieces, count) {
  const { height, width } = ink;
  // The filter reaches 6 pixels far: what is further from all ink need not be looked at.
  const box = boxAround(height, width, (i) => ink.values[i] > 0);
  const top = Math.max(0, box.top - 8);
  const left = Math.max(0, box.left - 8);
  const bottom = Math.min(height, box.top + box.height + 8);
  const right = Math.min(width, box.left + box.width + 8);
  const part = cut(ink, { top, left, height: bottom - top, width: right - left });
  const down = filtered(part, gaussianSlope(1.5), gaussian(1.5)).values;
  const across = filtered(part, gaussian(1.5), gaussianSlope(1.5)).values;
  const slopes = Array.from({ length: count + 1 }, () => []);
  for (let i = 0; i < part.values.length; i++) {
    const row = top + Math.floor(i / part.width);
    const column = left + (i % part.width);
    if (pieces[row * width + column]) continue;
    let beside = 0;
    near(row, column, height, width, 1, (j) => {
      beside = Math.max(beside, pieces[j]);
      return false;
    });
    if (beside) slopes[beside].push(Math.hypot(down[i], across[i]));
  }
  return slopes.map((values) => (values.length ? median(values) : Infinity));
}

/** Return the ink with strokes of at least MNIST's width: a thin pen's would be faint or broken once scaled down. */
function thickened(ink) {
  const size = Math.max(ink.height, ink.width);
  const framed = padded(ink, 1);
  const inside = distances(framed, (value) => value >= 0.5, Infinity);
  let sum = 0;
  let count = 0;
  for (const distance of inside) {
    if (distance > 0) {
      sum += distance;
      count++;
    }
  }
  const width = (4 * sum) / count; // in a stroke the mean distance to its edge is a quarter of its width
  const more = (THINNEST * size - width) / 2;
  if (!(more > 0)) return ink;
  const wide = padded(ink, Math.floor(more) + 1);
  const outside = distances(wide, (value) => value < 0.5, more + 1);
  return { ...wide, values: wide.values.map((value, i) => Math.max(value, clip(more + 0.5 - outside[i]))) };
}

/** Return an image, row by row, whose box the ink fills in one direction; the centre of its mass is in the middle. */
function placed(ink, shape) {
  const scale = Math.min(
    roundHalfEven(BOX * shape[0]) / ink.height,
    roundHalfEven(BOX * shape[1]) / ink.width,
  );
  const width = Math.max(1, roundHalfEven(ink.width * scale));
  const height = Math.max(1, roundHalfEven(ink.height * scale));
  const values = resized(ink, height, width).values.map(clip);
  const most = values.reduce((a, b) => Math.max(a, b));
  const centre = [0, 0];
  let total = 0;
  values.forEach((value, i) => {
    values[i] = value / most;
    centre[0] += values[i] * Math.floor(i / width);
    centre[1] += values[i] * (i % width);
    total += values[i];
  });
  const [top, left] = [height, width].map((length, axis) => {
    const start = roundHalfEven(shape[axis] / 2 - centre[axis] / total);
    return Math.min(Math.max(start, 0), shape[axis] - length);
  });
  const image = new Float64Array(shape[0] * shape[1]);
  values.forEach((value, i) => {
    image[(top + Math.floor(i / width)) * shape[1] + left + (i % width)] = value;
  });
  return image;
}
