// What ink.js asks of pictures: filters, distances, another size. A grid is {height, width, values}.

const clip = (value) => Math.min(Math.max(value, 0), 1);

/** Round to the nearest whole number, and to the even one of two, as Python does. */
function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

function mean(numbers) {
  let sum = 0;
  for (let i = 0; i < numbers.length; i++) sum += numbers[i];
  return sum / numbers.length;
}

/** Return the values at a grid's border, those at its corners twice. */
function borderOf({ height, width, values }) {
  const border = [];
  for (let x = 0; x < width; x++) border.push(values[x], values[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) border.push(values[y * width], values[(y + 1) * width - 1]);
  return border;
}

/** Return the median of a Float32Array of no negative numbers. */
function median(numbers) {
  let zeros = 0;
  for (const number of numbers) zeros += number === 0;
  if (2 * zeros > numbers.length) return 0; // there is no need to sort
  const sorted = numbers.slice().sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Call a function with each pixel at most `reach` rows and columns away from one, itself included. */
function eachNear(i, reach, height, width, work) {
  const row = Math.floor(i / width);
  const column = i - row * width;
  const [first, last] = [Math.max(0, column - reach), Math.min(width - 1, column + reach)];
  for (let y = Math.max(0, row - reach); y <= Math.min(height - 1, row + reach); y++) {
    for (let j = y * width + first; j <= y * width + last; j++) work(j);
  }
}

/** Return the smallest box around the values that are no background, or null. */
function boxAround({ height, width, values }, background) {
  let [top, bottom, left, right] = [height, -1, width, -1];
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i++) {
      if (values[i] === background) continue;
      if (bottom < 0) top = row;
      bottom = row;
      if (column < left) left = column;
      if (column > right) right = column;
    }
  }
  return bottom < 0 ? null : { top, left, height: bottom - top + 1, width: right - left + 1 };
}

/** Return a box with a margin around it, as far as a grid reaches. */
function widened(box, margin, grid) {
  const top = Math.max(0, box.top - margin);
  const left = Math.max(0, box.left - margin);
  const bottom = Math.min(grid.height, box.top + box.height + margin);
  const right = Math.min(grid.width, box.left + box.width + margin);
  return { top, left, height: bottom - top, width: right - left };
}

function cut(grid, { top, left, height, width }) {
  const values = new Float32Array(height * width);
  for (let row = 0; row < height; row++) {
    const start = (top + row) * grid.width + left;
    values.set(grid.values.subarray(start, start + width), row * width);
  }
  return { height, width, values };
}

/** Return a grid with a frame of zeros. */
function padded(grid, frame) {
  const width = grid.width + 2 * frame;
  const height = grid.height + 2 * frame;
  const values = new Float32Array(height * width);
  for (let row = 0; row < grid.height; row++) {
    const line = grid.values.subarray(row * grid.width, (row + 1) * grid.width);
    values.set(line, (row + frame) * width + frame);
  }
  return { height, width, values };
}

/** Apply a function to each column, or each row, of a grid's values: it is given a line, and writes another. */
function alongEach(values, height, width, isDown, length, work) {
  const [lines, step] = isDown ? [width, width] : [height, 1];
  const line = new Float64Array(length);
  const result = new Float64Array(length);
  for (let k = 0; k < lines; k++) {
    const start = isDown ? k : k * width;
    for (let i = 0; i < length; i++) line[i] = values[start + i * step];
    work(line, result);
    for (let i = 0; i < length; i++) values[start + i * step] = result[i];
  }
}

/** Return a normal distribution's weights, out to four standard deviations. */
function gaussian(sigma) {
  const reach = Math.floor(4 * sigma + 0.5);
  const weight = (_, i) => Math.exp((-0.5 * (i - reach) ** 2) / sigma ** 2);
  const weights = Float64Array.from({ length: 2 * reach + 1 }, weight);
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

/** Return the weights of its derivative. */
function gaussianSlope(sigma) {
  const weights = gaussian(sigma);
  const reach = weights.length >> 1;
  return weights.map((weight, i) => ((i - reach) / sigma ** 2) * weight);
}

/** Return a grid filtered down its columns and along its rows; beyond its border it goes on as in a mirror. */
function filtered({ height, width, values }, weights) {
  const result = Float32Array.from(values);
  const reach = weights.length >> 1;
  for (const [isDown, length] of [[true, height], [false, width]]) {
    const mirrored = new Float64Array(length + 2 * reach);
    alongEach(result, height, width, isDown, length, (line, out) => {
      mirrored.set(line, reach);
      for (let i = 0; i < reach; i++) {
        mirrored[i] = line[reflection(i - reach, length)];
        mirrored[reach + length + i] = line[reflection(length + i, length)];
      }
      for (let i = 0; i < length; i++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) sum += weights[j] * mirrored[i + j];
        out[i] = sum;
      }
    });
  }
  return { height, width, values: result };
}

/** Return which place of a line is seen at a place outside of it, as in a mirror at either end. */
function reflection(place, length) {
  while (place < 0 || place >= length) place = place < 0 ? -1 - place : 2 * length - 1 - place;
  return place;
}

/** Return a grid's values with dark things filled up that are narrower than 2 · reach + 1, as if it went on beyond. */
function closed(grid, reach) {
  const isLight = borderOf(grid).every((value) => value > 1 - 1e-6);
  const frame = isLight ? 0 : reach; // what lies beyond a light border fills nothing
  const height = grid.height + 2 * frame;
  const width = grid.width + 2 * frame;
  const values = new Float32Array(height * width);
  for (let row = 0; row < height; row++) {
    const start = Math.min(Math.max(row - frame, 0), grid.height - 1) * grid.width;
    const line = grid.values.subarray(start, start + grid.width);
    values.fill(line[0], row * width, row * width + frame);
    values.set(line, row * width + frame);
    values.fill(line[grid.width - 1], (row + 1) * width - frame, (row + 1) * width);
  }
  const queue = new Int32Array(Math.max(height, width));
  for (const sign of [1, -1]) {
    // The greatest around each pixel, then of those the least.
    alongEach(values, height, width, true, height, (line, out) => greatestAround(line, out, reach, sign, queue));
    alongEach(values, height, width, false, width, (line, out) => greatestAround(line, out, reach, sign, queue));
  }
  const middle = cut({ height, width, values }, { top: frame, left: frame, height: grid.height, width: grid.width });
  return middle.values.map((value) => Math.max(value, 0.1));
}

/** Write the greatest value at most `reach` away from each place; with the sign −1 the least. */
function greatestAround(line, out, reach, sign, queue) {
  let same = 1;
  while (same < line.length && line[same] === line[0]) same++;
  if (same === line.length) return out.set(line); // as on most of a paper
  let first = 0;
  let end = 0; // in the queue are the places that may yet be the greatest, from the greatest down
  for (let i = 0; i < line.length + reach; i++) {
    if (i < line.length) {
      while (end > first && sign * line[queue[end - 1]] <= sign * line[i]) end--;
      queue[end++] = i;
    }
    const place = i - reach;
    if (place < 0) continue;
    if (queue[first] < place - reach) first++;
    out[place] = line[queue[first]];
  }
}

/** Return how far each pixel for which a condition holds is from the nearest for which it does not, up to a limit. */
function distances({ height, width, values }, condition, limit) {
  const down = new Float64Array(values.length); // in its own column
  for (let column = 0; column < width; column++) {
    let distance = Infinity;
    for (let row = 0; row < height; row++) {
      const i = row * width + column;
      distance = condition(values[i]) ? distance + 1 : 0;
      down[i] = distance;
    }
    distance = Infinity;
    for (let row = height - 1; row >= 0; row--) {
      const i = row * width + column;
      distance = condition(values[i]) ? distance + 1 : 0;
      down[i] = Math.min(down[i], distance);
    }
  }
  const found = new Float64Array(values.length);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const i = row * width + column;
      let nearest = down[i] ** 2;
      for (let away = 1; away ** 2 < nearest && away < width && away <= limit; away++) {
        if (column >= away) nearest = Math.min(nearest, away ** 2 + down[i - away] ** 2);
        if (column + away < width) nearest = Math.min(nearest, away ** 2 + down[i + away] ** 2);
      }
      found[i] = Math.sqrt(nearest);
    }
  }
  return found;
}

/** Return a grid in another size, by the cubic filter (Keys 1981, a = −1/2) that Pillow calls BICUBIC. */
function resized(grid, height, width) {
  const across = cubicWeights(grid.width, width);
  const narrow = new Float32Array(grid.height * width);
  for (let row = 0; row < grid.height; row++) {
    across.forEach(({ first, weights }, column) => {
      let sum = 0;
      weights.forEach((weight, j) => (sum += weight * grid.values[row * grid.width + first + j]));
      narrow[row * width + column] = sum;
    });
  }
  const values = new Float32Array(height * width);
  cubicWeights(grid.height, height).forEach(({ first, weights }, row) => {
    for (let column = 0; column < width; column++) {
      let sum = 0;
      weights.forEach((weight, j) => (sum += weight * narrow[(first + j) * width + column]));
      values[row * width + column] = sum;
    }
  });
  return { height, width, values };
}

/** Return, for each new pixel of a line, the first old one that it is made of, and the weights from there on. */
function cubicWeights(from, to) {
  const scale = from / to;
  const stretch = Math.max(scale, 1); // smaller pictures are made of more pixels
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * stretch + 0.5));
    const end = Math.min(from, Math.trunc(centre + 2 * stretch + 0.5));
    const weights = Float64Array.from({ length: end - first }, (_, j) => cubic((first + j - centre + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

function cubic(x) {
  const away = Math.abs(x);
  if (away < 1) return (1.5 * away - 2.5) * away ** 2 + 1;
  return away < 2 ? ((-0.5 * away + 2.5) * away - 4) * away + 2 : 0;
}
