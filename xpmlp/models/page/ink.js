// From a drawing to the model's form: the steps by which `xpmlp predict` brings a picture of one character to that of
// MNIST's images or the digits (xpmlp/data/ink.py), which are meant for scans. Here it is known how large the picture is;
// all else is the same, with the same numbers, so that both make the same bytes of a picture.
//
// A grid is {height, width, values}, its values a Float32Array, row by row.

const WHITE = 255;
const MARGIN = 8; // pixels around the ink that the filters reach
const FAINTEST = 0.1; // what is darker than the paper by less than this part of it is no ink
const THINNEST = 2.1 / 20; // of the character's size: the width to which strokes are thickened

/**
 * Return the bytes that the model takes for a picture of 256 × 256 grey values (0 black), or null: there is no ink.
 *
 * The form says how much of the image's height or width a character has (box), whichever it fills first, and whether
 * the centre of its mass is in the middle (byMass), or that of the box.
 */
function normalise(picture, shape, maxValue, form) {
  const greys = isLightOnDark(picture) ? picture.values.map((grey) => WHITE - grey) : picture.values;
  const ink = inkOf({ ...picture, values: greys });
  if (!ink) return null;
  return Uint8Array.from(placed(thickened(ink), shape, form), (value) => roundHalfEven(value * maxValue));
}

/**
 * Return whether a picture is taken for light ink on dark paper, as one is of which nearly all was blackened.
 *
 * Ink is what departs further from the mean around it; the border, most of which is paper, counts too.
 */
function isLightOnDark(picture) {
  const { height, width, values } = picture;
  // The mean around a pixel is dear, and with so little ink the answer is known.
  const darkness = (greys) => 1 - mean(greys) / WHITE;
  if (darkness(values) < 0.25 && darkness(borderOf(picture)) < 0.25) return false;
  const around = filtered(picture, gaussian(Math.max(height, width) / 8)).values;
  const detail = values.map((grey, i) => grey - around[i]);
  const deviation = Math.max(Math.sqrt(mean(detail.map((d) => d ** 2))), 1e-6);
  const border = mean(borderOf({ height, width, values: detail })) / deviation;
  return mean(detail.map((d) => (d / deviation) ** 3)) > 0.55 * Math.min(Math.max(border, -1), 1);
}

/** Return how much of each pixel is ink, from 0 to 1, cut out along the character's edges, or null. */
function inkOf(picture) {
  const n = picture.values.length;
  const size = Math.max(picture.height, picture.width);
  const box = boxAround(picture, WHITE);
  if (!box) return null;
  const { height, width, values } = cut(picture, widened(box, MARGIN, picture)); // the rest is white, and stays so
  for (let i = 0; i < values.length; i++) values[i] /= WHITE;
  const smooth = filtered({ height, width, values }, gaussian(1));
  // What the filter changes is noise. A drawing has none, unless half of its pixels lie at an edge.
  const changes = new Float32Array(n);
  for (let i = 0; i < values.length; i++) changes[i] = Math.abs(values[i] - smooth.values[i]);
  let noise = 1.48 * median(changes) * 0.28;
  const paper = closed(smooth, Math.max(1, Math.floor(size / 6)));
  const contrast = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) contrast[i] = 1 - (smooth.values[i] + 3 * noise) / paper[i];
  if (noise > 0) {
    const everywhere = new Float32Array(n).fill(1);
    everywhere.set(paper);
    noise /= median(everywhere);
  }

  let squares = 0;
  let cubes = 0;
  const faintest = Math.max(5 * noise, FAINTEST);
  for (const value of contrast) {
    if (value <= faintest) continue;
    squares += value * value;
    cubes += value * value * value;
  }
  const level = squares > 0 ? cubes / squares : 0; // a mean in which the darkest count most
  if (level < Math.max(8 * noise, FAINTEST)) return null;
  for (let i = 0; i < contrast.length; i++) contrast[i] = clip((contrast[i] / level - 0.3) / 0.4);
  return withoutSpecks({ height, width, values: contrast }, size);
}

/** Return the character without the pieces that are no part of it, cut out along its edges, or null. */
function withoutSpecks(ink, size) {
  const { height, width, values } = ink;
  const { pieces, count } = piecesOf(ink);
  const mass = new Float64Array(count + 1);
  const atBorder = new Uint8Array(count + 1);
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i++) {
      if (!pieces[i]) continue;
      mass[pieces[i]] += values[i];
      if (row === 0 || column === 0 || row === height - 1 || column === width - 1) atBorder[pieces[i]] = 1;
    }
  }
  const inside = mass.filter((_, k) => !atBorder[k]);
  if (Math.max(...inside) > 0.3 * Math.max(...mass)) {
    for (let k = 1; k <= count; k++) if (atBorder[k]) mass[k] = 0; // cut through by the border
  }
  slopesBeside(ink, pieces, count).forEach((slope, k) => {
    if (slope < 0.1) mass[k] = 0; // it ends more softly than ink
  });

  const least = 0.05 * Math.max(...mass);
  const kept = pieces.map((piece) => (mass[piece] > least ? piece : 0));
  const extent = boxAround({ height, width, values: kept }, 0);
  if (!extent || Math.max(extent.height, extent.width) < Math.max(3, 0.02 * size)) return null;
  const cleaned = new Float32Array(values.length); // the pieces that are kept, and their edges
  for (let i = 0; i < kept.length; i++) {
    if (kept[i]) cleaned[i] = values[i];
    else if (!pieces[i] && values[i] > 0) {
      eachNear(i, 2, height, width, (j) => {
        if (kept[j]) cleaned[i] = values[i];
      });
    }
  }
  const result = { height, width, values: cleaned };
  return cut(result, boxAround(result, 0));
}

/** Return each pixel's piece, a number from 1 to count, or 0 where there is no ink; pieces may touch at corners. */
function piecesOf({ height, width, values }) {
  const pieces = new Int32Array(values.length);
  const waiting = [];
  let count = 0;
  const take = (i) => {
    if (values[i] < 0.5 || pieces[i]) return;
    pieces[i] = count;
    waiting.push(i);
  };
  for (let start = 0; start < values.length; start++) {
    if (values[start] < 0.5 || pieces[start]) continue;
    count++;
    take(start);
    while (waiting.length) eachNear(waiting.pop(), 1, height, width, take);
  }
  return { pieces, count };
}

/** Return, for each piece, the median steepness of the ink at the pixels that touch it from outside. */
function slopesBeside(ink, pieces, count) {
  const beside = new Int32Array(pieces.length);
  for (let i = 0; i < pieces.length; i++) {
    if (!pieces[i]) continue;
    eachNear(i, 1, ink.height, ink.width, (j) => {
      if (!pieces[j]) beside[j] = Math.max(beside[j], pieces[i]);
    });
  }
  const slopes = Array.from({ length: count + 1 }, () => []);
  const slopeAt = makeSlope(ink);
  for (let i = 0; i < beside.length; i++) {
    if (beside[i]) slopes[beside[i]].push(slopeAt(i));
  }
  return slopes.map((values) => (values.length ? median(Float32Array.from(values)) : Infinity));
}

const SMOOTH = gaussian(1.5);
const STEEP = gaussianSlope(1.5);

/** Return the function that says how steep the ink is at a pixel: the length of its gradient, smoothed. */
function makeSlope({ height, width, values }) {
  const reach = SMOOTH.length >> 1;
  const mirrored = (length) => Int32Array.from({ length: length + 2 * reach }, (_, i) => reflection(i - reach, length));
  const [rows, columns] = [mirrored(height), mirrored(width)];
  return (i) => {
    const row = Math.floor(i / width);
    const column = i - row * width;
    let down = 0;
    let across = 0;
    for (let y = 0; y <= 2 * reach; y++) {
      for (let x = 0; x <= 2 * reach; x++) {
        const value = values[rows[row + y] * width + columns[column + x]];
        down += STEEP[y] * SMOOTH[x] * value;
        across += SMOOTH[y] * STEEP[x] * value;
      }
    }
    return Math.hypot(down, across);
  };
}

/** Return the ink with strokes of at least MNIST's width: a thin pen's would be faint or broken once scaled down. */
function thickened(ink) {
  const size = Math.max(ink.height, ink.width);
  const framed = padded(ink, 1);
  let sum = 0;
  let count = 0;
  for (const distance of distances(framed, (value) => value >= 0.5, Infinity)) {
    sum += distance;
    count += distance > 0;
  }
  const width = (4 * sum) / count; // in a stroke the mean distance to its edge is a quarter of its width
  const more = (THINNEST * size - width) / 2;
  if (!(more > 0)) return ink;
  const wide = padded(ink, Math.floor(more) + 1);
  const outside = distances(wide, (value) => value < 0.5, more + 1);
  return { ...wide, values: wide.values.map((value, i) => Math.max(value, clip(more + 0.5 - outside[i]))) };
}

/** Return an image, row by row, whose box the ink fills in one direction, its centre in the middle. */
function placed(ink, shape, form) {
  const scale = Math.min(
    roundHalfEven(form.box * shape[0]) / ink.height,
    roundHalfEven(form.box * shape[1]) / ink.width,
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
    const middle = form.byMass ? centre[axis] / total : length / 2;
    const start = roundHalfEven(shape[axis] / 2 - middle);
    return Math.min(Math.max(start, 0), shape[axis] - length);
  });
  const image = new Float64Array(shape[0] * shape[1]);
  values.forEach((value, i) => {
    image[(top + Math.floor(i / width)) * shape[1] + left + (i % width)] = value;
  });
  return image;
}
