// The equations, for one sample (n = 1) and any number of layers, beside their numbers in derivation.md; and the table
// of what they make, in its order, by which the page shows it. All sums are in double precision.

/** Return the layers {W, b, inputs, outputs}: views of a vector that holds W1, b1, W2, b2, … without gaps. */
function layersOf(theta, sizes) {
  let start = 0;
  const next = (length) => theta.subarray(start, (start += length));
  return sizes.slice(1).map((outputs, k) => {
    const W = next(sizes[k] * outputs);
    return { W, b: next(outputs), inputs: sizes[k], outputs };
  });
}

/** Return what each layer's arrays are called: as in the notes where there are three layers, else by number. */
function namesOf(K) {
  if (K === 3) return { A: ["X", "A", "q"], Z: ["H", "O", "S"], delta: ["δH", "δO", "δS"] };
  const numbered = (letter) => Array.from({ length: K - 1 }, (_, k) => letter + (k + 1));
  return { A: ["X", ...numbered("A")], Z: [...numbered("Z"), "S"], delta: [...numbered("δ"), "δS"] };
}

/** Return all that lies between X and P, by its name. */
function forward(layers, X) {
  const names = namesOf(layers.length);
  const arrays = { X };
  let A = X;
  layers.forEach((layer, k) => {
    const Z = affine(A, layer); // F1: H = X W1 + b1; F3: O = A W2 + b2; F5: S = q W3 + b3
    arrays[names.Z[k]] = Z;
    if (k === layers.length - 1) return;
    A = Z.map((z) => Math.max(z, 0)); // F2: A = ReLU(H); F4: q = ReLU(O)
    arrays[names.A[k + 1]] = A;
  });
  arrays.P = arrays.S.map(logSoftmax(arrays.S)).map(Math.exp); // F6: P = softmax(S)
  return arrays;
}

/** Return the loss and its gradients, by their names, of what `forward` returned. */
function backward(layers, arrays, label) {
  const names = namesOf(layers.length);
  const { S, P } = arrays;
  const T = P.map((_, j) => (j === label ? 1 : 0));
  const found = { T };
  found.L = Float64Array.of(-logSoftmax(S)(S[label])); // F7: L = −log P[label]
  let delta = P.map((p, j) => p - T[j]); // B1: δS = P − T
  found["δS"] = delta;
  for (let k = layers.length - 1; k >= 0; k--) {
    const A = arrays[names.A[k]];
    found[`∂L/∂W${k + 1}`] = outer(A, delta); // B2, B6, B10: ∂L/∂W = Aᵀ δ
    found[`∂L/∂b${k + 1}`] = delta; // B3, B7, B11: ∂L/∂b = 1ᵀ δ, which of one row is that
    if (k === 0) break;
    const dA = timesTransposed(delta, layers[k]); // B4, B8: ∂L/∂A = δ Wᵀ
    found[`∂L/∂${names.A[k]}`] = dA;
    delta = dA.map((d, i) => (A[i] > 0 ? d : 0)); // B5, B9: δ = ReLU′ ⊙ ∂L/∂A
    found[names.delta[k - 1]] = delta;
  }
  return found;
}

/** Return the layers after a step of gradient descent: each parameter less its gradient times the rate. */
function stepped(layers, gradients, rate) {
  const less = (values, gradient) => {
    const result = new Float64Array(values.length);
    for (let i = 0; i < result.length; i++) result[i] = values[i] - rate * gradient[i];
    return result;
  };
  return layers.map((layer, k) => ({
    ...layer,
    W: less(layer.W, gradients[`∂L/∂W${k + 1}`]),
    b: less(layer.b, gradients[`∂L/∂b${k + 1}`]),
  }));
}

/** A W + b. */
function affine(A, { W, b, inputs, outputs }) {
  const Z = Float64Array.from(b);
  for (let i = 0; i < inputs; i++) {
    if (A[i] === 0) continue;
    for (let j = 0, at = i * outputs; j < outputs; j++, at++) Z[j] += A[i] * W[at];
  }
  return Z;
}

/** Aᵀ δ. */
function outer(A, delta) {
  const dW = new Float64Array(A.length * delta.length);
  for (let i = 0; i < A.length; i++) {
    if (A[i] === 0) continue;
    for (let j = 0, at = i * delta.length; j < delta.length; j++, at++) dW[at] = A[i] * delta[j];
  }
  return dW;
}

/** δ Wᵀ. */
function timesTransposed(delta, { W, inputs, outputs }) {
  const dA = new Float64Array(inputs);
  for (let i = 0; i < inputs; i++) {
    for (let j = 0, at = i * outputs; j < outputs; j++, at++) dA[i] += delta[j] * W[at];
  }
  return dA;
}

/** Return the function from one of some sums to the logarithm of its probability; none overflows. */
function logSoftmax(S) {
  const most = Math.max(...S);
  const total = Math.log(S.reduce((sum, s) => sum + Math.exp(s - most), 0));
  return (s) => s - most - total;
}
