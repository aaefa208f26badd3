"""The faults that `tests/mutants.py` makes, one at a time."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Parameters
    ----------
    name, why : str
        What it is called, and what is wrong then.
    file, where : str
        The file, and in it a function's or a class's qualified name, or a module's variable.
    old, new : str
        The statement or the expression that is replaced, found by its syntax tree; of a variable, which may hold CUDA's
        source, a piece of its text, however it is spaced. Nothing as `new`: it is left out.
    tests : str
        What pytest is told to run.
    modes : tuple of str
        In which modes, the one that is to find it first.
    times : int
        How often `old` is there, and is replaced.
    ends : {"", "hangs", "crashes"}
        How the tests' process may end where none of them can fail.
    unseen : str
        Why no test can find it.
    """

    name: str
    why: str
    file: str
    where: str
    old: str
    new: str
    tests: str
    modes: tuple[str, ...]
    times: int = 1
    ends: str = ""
    unseen: str = ""


def of(file: str, tests: str, modes: str, *faults: tuple[str, str, str, str, str], **more: Any) -> list[Mutant]:
    """Return the mutants of a file that the same tests find: the name, why, where, old and new of each."""
    return [
        Mutant(name, why, file, where, old, new, tests, tuple(modes.split()), **more)
        for name, why, where, old, new in faults
    ]


COPIER = "xpmlp/backends/_cupy.py"
LOADER = "xpmlp/data/loading.py"
PRIMITIVES = "xpmlp/primitives/_cupy.py"
ESTIMATORS = "xpmlp/estimators.py"
FITTING = "xpmlp/fitting.py"

LOADING = "tests/test_loading.py -k cupy"
KERNELS = "tests/test_primitives.py tests/test_primitives_native.py -k cupy"
DROP_IN = "tests/test_estimators.py -k TestADropIn"

# fmt: off
MUTANTS = [
    *of(COPIER, LOADING, "lazy skew",
        ("the steps do not wait", "a batch is computed with before it is copied",
         "_PinnedCopier.computing_waits_for", "cupy.cuda.get_current_stream().wait_event(event)", ""),
        ("the copies do not wait", "a batch is copied over one that is still computed with",
         "_PinnedCopier.copying_waits_for", "self._stream.wait_event(event)", ""),
        ("the host does not wait", "a staging buffer is filled while it is still copied from",
         "_PinnedCopier.host_waits_for", "event.synchronize()", ""),
        ("the end does not wait", "memory goes back to CuPy's pools while it is still copied",
         "_PinnedCopier.finish", "self._stream.synchronize()", ""),
        ("the end waits for the wrong stream", "what is copied and never used is still on its way",
         "_PinnedCopier.finish", "self._stream.synchronize()", "cupy.cuda.get_current_stream().synchronize()"),
        ("copies recorded on the wrong stream", "the event is no later than the steps, the copies may be",
         "_PinnedCopier.record_copied", "self._stream.record(event)", "cupy.cuda.get_current_stream().record(event)"),
        ("use recorded on the wrong stream", "the event is behind copies, not behind steps",
         "_PinnedCopier.record_used", "cupy.cuda.get_current_stream().record(event)", "self._stream.record(event)"),
        ("steps' wait on the wrong stream", "the copies wait for themselves, the steps for nothing",
         "_PinnedCopier.computing_waits_for", "cupy.cuda.get_current_stream().wait_event(event)",
         "self._stream.wait_event(event)"),
        ("copies' wait on the wrong stream", "the steps wait for themselves, the copies for nothing",
         "_PinnedCopier.copying_waits_for", "self._stream.wait_event(event)",
         "cupy.cuda.get_current_stream().wait_event(event)"),
    ),
    *of(COPIER, LOADING, "now",
        ("a short batch as a whole buffer", "the last batch has rows of an earlier one",
         "_PinnedCopier.copy", "return rows", "return device"),
        ("buffers on the copying stream", "CuPy's pool keeps them for a stream that is gone",
         "_PinnedCopier.device_buffer", "return cupy.empty(host.shape, host.dtype)",
         "with self._stream:\n    return cupy.empty(host.shape, host.dtype)"),
        ("staging buffers not page-locked", "the host waits for each copy",
         "_PinnedCopier.host_buffer", "cupyx.empty_pinned(shape, dtype)", "np.empty(shape, dtype)"),
    ),
    *of(LOADER, LOADING, "lazy skew",
        ("a new slot's use not recorded", "it is copied into while an earlier epoch's steps read it",
         "Staging.new_slot", "self.copier.record_used(slot.used)", ""),
        ("a used slot's use not recorded", "it is copied into while its own steps read it",
         "Staging.release", "self.copier.record_used(slot.used)", ""),
        ("a slot released before its batch is used", "what is queued later is not waited for",
         "DeviceLoader._stream", "yield batch", "staging.release(slot)\nfree.put(slot)\nyield batch\ncontinue"),
        ("a slot free before it is released", "the thread may fill it before its use is recorded",
         "DeviceLoader._stream", "yield batch", "free.put(slot)\nyield batch\nstaging.release(slot)\ncontinue"),
        ("a slot released before it is copied", "a batch of its own is read while it is copied into",
         "DeviceLoader._stream", "images, labels = (xp.asarray(array, copy=True) for array in batch)",
         "staging.release(slot)\nfree.put(slot)\n"
         "images, labels = (xp.asarray(array, copy=True) for array in batch)\nyield images, labels\ncontinue"),
        ("copies not recorded", "the host waits for an earlier batch's copy",
         "Staging.fill", "copier.record_copied(slot.copied)", ""),
        ("no copy where a batch is to have its own", "later batches lie over it",
         "DeviceLoader._stream", "xp.asarray(array, copy=True)", "array"),
    ),
    *of(LOADER, LOADING, "now",
        ("a whole buffer copied for a short batch", "the last batch has rows of an earlier one",
         "Staging.fill", "copier.copy(slot.images, slot.device_images, n)",
         "copier.copy(slot.images, slot.device_images, self._batch_size)"),
        ("streamed labels of 64 bits", "a kernel that reads 32 takes every second of them for 0",
         "Staging.new_slot", 'labels = self.copier.host_buffer((self._batch_size,), "int32")',
         'labels = self.copier.host_buffer((self._batch_size,), "int64")'),
        ("resident labels as they are", "bytes are handed to a kernel that reads 32 bits",
         "DeviceLoader.__init__", "dataset.labels.astype(np.int32)", "dataset.labels"),
        ("an epoch begins a batch late", "its first batch is never seen",
         "DeviceLoader.batches", "firsts = range(start * self.batch_size, stop, self.batch_size)",
         "firsts = range((start + 1) * self.batch_size, stop, self.batch_size)"),
        ("the short batch kept", "a batch of another size comes where none is wanted",
         "DeviceLoader.batches", "stop -= stop % self.batch_size", ""),
        ("the short batch lost", "an epoch has not all images",
         "DeviceLoader.batches", "self.drop_last", "True"),
        ("a resident batch of the row before", "batches are shifted by one",
         "DeviceLoader._name", "yield self._images, self._labels, table, i",
         "yield self._images, self._labels, table, i - 1"),
        ("a resident table that begins at the first batch", "an epoch that goes on sees other images",
         "DeviceLoader._name", "rows[whole[0].start : whole[-1].stop]", "rows[: whole[-1].stop - whole[0].start]"),
        ("the last resident labels of another batch", "images have others' labels",
         "read_batch", "xp.take(labels, rows, axis=0)", "xp.take(labels, rows - rows[0], axis=0)"),
        ("images that are not there not refused", "CuPy takes another image in silence",
         "DeviceLoader.batches", "0 <= permutation.min() <= permutation.max() < self._n", "True"),
        ("the thread not joined", "it lives on while its buffers go",
         "DeviceLoader._stream", "thread.join()", ""),
    ),
    *of(LOADER, LOADING, "now",
        ("the thread not woken", "the end waits for it for ever",
         "DeviceLoader._stream", "free.put(None)", ""),
        ("the thread's error kept", "the caller waits for a batch for ever",
         "DeviceLoader._stream.work", "filled.put(error)", ""),
        ends="hangs",
    ),
    *of(LOADER, "tests/test_loading.py -k numpy", "plain",
        ("one buffer too few", "a batch less is on its way",
         "DeviceLoader._stream", "range(self.prefetch + 1)", "range(self.prefetch)"),
        ("new memory for each batch", "what is allocated grows with the batches",
         "DeviceLoader._stream", "self.reuse_buffers or not staging.copier.reuses_buffers", "False"),
    ),
    *of(PRIMITIVES, KERNELS, "shuffle reverse now",
        ("first barrier left out", "warps' sums are read before they are written",
         "_SOFTMAX_CROSS_ENTROPY", "warp_corrects[warp] = correct_here;\n    __syncthreads();",
         "warp_corrects[warp] = correct_here;"),
        ("second barrier left out", "warp 0 goes on before it knows whether its block is the last",
         "_SOFTMAX_CROSS_ENTROPY", "__syncthreads(); if (!is_last || warp > 0) return;",
         "if (!is_last || warp > 0) return;"),
    ),
    *of(PRIMITIVES, KERNELS, "now reverse shuffle",
        ("half a mask", "lanes 16 to 31 take part in no exchange",
         "_SOFTMAX_CROSS_ENTROPY", "all = 0xffffffffu", "all = 0xffffu"),
        ("counter not reset", "the second launch's last block does not know that it is the last",
         "_SOFTMAX_CROSS_ENTROPY", "atomicInc(counter, gridDim.x - 1)", "atomicAdd(counter, 1u)"),
        ("lanes return early", "a warp's exchange waits for lanes that have gone",
         "_SOFTMAX_CROSS_ENTROPY", "if (!is_last || warp > 0) return;", "if (!is_last || lane > 15) return;"),
        ("the first block is the last", "sums are added before all are there",
         "_SOFTMAX_CROSS_ENTROPY", "== gridDim.x - 1;", "== 0;"),
        ("share as a Python float", "8 bytes are handed to a kernel that reads 4",
         "softmax_cross_entropy", "numbers = np.int32(n), np.int32(c), real(1 / n)",
         "numbers = np.int32(n), np.int32(c), 1 / n"),
        ("half a warp's total", "16 lanes' exponentials are left out",
         "_SOFTMAX_CROSS_ENTROPY", "for (int step = 16; step > 0; step /= 2) total +=",
         "for (int step = 8; step > 0; step /= 2) total +="),
        ("half a warp's greatest", "a greater logit of another half overflows",
         "_SOFTMAX_CROSS_ENTROPY", "for (int step = 16; step > 0; step /= 2) { const real other",
         "for (int step = 8; step > 0; step /= 2) { const real other"),
        ("of equal logits the last", "the prediction is not argmax's",
         "_SOFTMAX_CROSS_ENTROPY", "? i < j : a > b", "? i > j : a > b"),
        ("NaN after all", "a NaN is not the greatest logit",
         "_SOFTMAX_CROSS_ENTROPY", "if (a_is_nan != b_is_nan) return a_is_nan;",
         "if (a_is_nan != b_is_nan) return b_is_nan;"),
        ("the greatest logit not subtracted", "exponentials overflow",
         "_SOFTMAX_CROSS_ENTROPY", "exp(s[j] - most)", "exp(s[j])"),
        ("a label below 0 read", "memory before the row is taken for a logit",
         "_SOFTMAX_CROSS_ENTROPY", "0 <= label && label < c", "label < c"),
        ("delta without the share", "gradients are of the sum, not of the mean",
         "_SOFTMAX_CROSS_ENTROPY", "(j == label ? real(1) : real(0))) * share;", "(j == label ? real(1) : real(0)));"),
        ("the first warp's sums alone", "a block's other rows are left out",
         "_SOFTMAX_CROSS_ENTROPY", "w < n_warps", "w < 1"),
        ("the first 32 blocks' sums alone", "loss and number correct of large batches are too low",
         "_SOFTMAX_CROSS_ENTROPY", "b < gridDim.x; b += 32", "b < gridDim.x && b < 32; b += 32"),
        ("columns beyond 32 left out", "of many classes a lane sees one",
         "_SOFTMAX_CROSS_ENTROPY", "for (int j = lane; j < c; j += 32) {",
         "for (int j = lane; j < c && j < 32; j += 32) {"),
        ("no bound on the blocks", "they write behind the workspace's end",
         "softmax_cross_entropy", "min(-(-n * 32 // _THREADS), _MOST_BLOCKS)", "-(-n * 32 // _THREADS)"),
        ("rows of one pass alone", "of more than 4,096 rows the rest is left out",
         "_SOFTMAX_CROSS_ENTROPY", "row += (long long)gridDim.x * n_warps", "row += n"),
        ("the logits overwritten", "what is read again is delta",
         "softmax_cross_entropy", "cupy.empty_like(S)", "S"),
        ("one workspace for all types", "doubles are written into floats' room",
         "_workspace", "key = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr, dtype",
         "key = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr, 0"),
        ("one workspace for all streams", "launches that overlap share a counter",
         "_workspace", "cupy.cuda.get_current_stream().ptr", "0"),
        ("one workspace for all threads", "launches that overlap share a counter",
         "_Workspaces", "threading.local", "object"),
        ("a workspace that is not cleared", "the counter begins anywhere",
         "_workspace", "cupy.zeros(1, np.uint32)", "cupy.empty(1, np.uint32)"),
        ("ReLU that hides a NaN", "parameters that broke have a finite loss",
         "_bias_relu", "Z = z < T(0) ? T(0) : z", "Z = z > T(0) ? z : T(0)"),
        ("ReLU without its bias", "the bias is not learned",
         "_bias_relu", "Z + b", "Z"),
        ("a slope at 0", "units that are off are trained",
         "_relu_backward", "A > T(0)", "A >= T(0)"),
        ("bytes by 256", "white is not 1",
         "scaled", "1 / max_value", "1 / (max_value + 1)"),
        ("every step finite", "a loss that diverges is not found",
         "_accumulate", "isfinite(sum) ? 1 : 0", "1"),
        ("the batch's loss alone looked at", "a later finite loss counts again",
         "_accumulate", "isfinite(sum)", "isfinite(batch_loss)"),
        ("batches of one weight", "the last batch's images count more",
         "_accumulate", "loss + batch_loss * n", "loss + batch_loss"),
        ("Adam's first rest for the second", "squares are averaged over 10 steps",
         "adam_step", "_adam_step(gradient, 1 - beta1, beta2, 1 - beta2, rate, epsilon, theta, m, v)",
         "_adam_step(gradient, 1 - beta1, beta2, 1 - beta1, rate, epsilon, theta, m, v)"),
        ("Adam's epsilon under the root", "steps of small gradients are too short",
         "_adam_step", "sqrt(square) + epsilon", "sqrt(square + epsilon)"),
        ("Adam's square not kept", "each step begins with none",
         "_adam_step", "v = square;", ""),
        ("momentum without momentum", "the velocity is the gradient",
         "_momentum_step", "speed = momentum * velocity + g", "speed = g"),
        ("Nesterov everywhere", "plain momentum looks ahead",
         "_momentum_step", "nesterov ?", "true ?"),
        ("Nesterov nowhere", "nothing looks ahead",
         "_momentum_step", "nesterov ?", "false ?"),
        ("the biases' gradient not written", "it is what lay there",
         "parameter_gradients", "delta.sum(axis=0, keepdims=True, out=db)", ""),
    ),
    *of(PRIMITIVES, KERNELS, "now",
        ("a label beyond the classes read", "memory behind the row is taken for a logit",
         "_SOFTMAX_CROSS_ENTROPY", "0 <= label && label < c", "0 <= label"),
        ends="crashes",
    ),
    *of(PRIMITIVES, "tests/test_deformation.py -k 'cupy and scipys'", "now",
        ("sampled by another share", "8 bytes are handed to a kernel that reads 4",
         "sampled", "X.dtype.type(1 / max_value)", "1 / max_value"),
        ("sampled beyond the border", "memory around an image is read",
         "_SAMPLED", "y = y > real(0) ? (y < bottom ? y : bottom) : real(0);", ""),
        ("sampled with x for y", "an image is moved in the wrong direction",
         "_SAMPLED", "displacement[pixels] + real(column + 1)", "displacement[0] + real(column + 1)"),
        ("sampled from the first image", "all images are the first",
         "_SAMPLED", "images + k * pixels", "images"),
    ),
    *of(ESTIMATORS, DROP_IN, "plain",
        ("a split that is not stratified", "other samples are held out",
         "_Perceptron._split", "labels = np.repeat([False, True], [n - n_second, n_second])", ""),
        ("a stratified split without its order", "the labels are not those of the samples",
         "_Perceptron._split", "order = xp.argsort(xp.astype(second, xp.int32), stable=True)", ""),
        ("the rate does not fall", "invscaling is constant",
         "_Perceptron._fit_stochastic", "optimizer.iteration_ends(self.t_)", ""),
        ("one epoch less patience", "training stops early",
         "_Perceptron._fit_stochastic", "self._no_improvement_count > self.n_iter_no_change",
         "self._no_improvement_count >= self.n_iter_no_change"),
        ("the count goes on", "an adaptive rate falls every epoch",
         "_Perceptron._fit_stochastic", "self._no_improvement_count = 0", ""),
        ("the best not restored", "early stopping returns the last parameters",
         "_Perceptron._fit_stochastic", "self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts", ""),
        ("the best not copied", "it is trained on",
         "_Perceptron._keep_best", "[_copy(W) for W in self.coefs_]", "list(self.coefs_)"),
        ("the same order in every epoch", "nothing is shuffled anew",
         "_Perceptron._fit_stochastic", "rows = shuffle(rows, random_state=self._random_state)",
         "rows = shuffle(rows, random_state=0)"),
        ("partial_fit begins the optimizer again", "what it has averaged is lost",
         "_Perceptron._fit_stochastic", 'not incremental or not hasattr(self, "_optimizer")', "True"),
        ("an improvement counts without tol", "training goes on",
         "_Perceptron._count_without_improvement", "self.loss_curve_[-1] <= self.best_loss_ - self.tol",
         "self.loss_curve_[-1] < self.best_loss_"),
        ("tanh drawn as logistic", "first parameters are too small",
         "_Perceptron._initialise", '2.0 if self.activation == "logistic" else 6.0', "6.0"),
        ("one class predicted at 0", "the threshold is not a half",
         "MLPClassifier._validation_score", "(P > 0.5) == T", "(P > 0.0) == T"),
    ),
    *of(FITTING, DROP_IN, "plain",
        ("the penalty counts biases", "the loss is not scikit-learn's",
         "_reported_loss", "[xp.reshape(W, (-1,)) for W, _ in layers]",
         "[xp.reshape(a, (-1,)) for layer in layers for a in layer]"),
        ("a loss without weights", "samples count the same",
         "_reported_loss", "losses if weights is None else losses * weights", "losses"),
        ("gradients without weights", "samples count the same",
         "_loss_and_gradient", '{"head": head, "activation": activation, "weights": weights, "l2": alpha}',
         '{"head": head, "activation": activation, "weights": None, "l2": alpha}'),
        ("no penalty in gradients", "weights do not decay",
         "_loss_and_gradient", '{"head": head, "activation": activation, "weights": weights, "l2": alpha}',
         '{"head": head, "activation": activation, "weights": weights, "l2": 0.0}'),
        ("an adaptive rate by 2", "it falls too slowly",
         "Stepper.trigger_stopping", "self.learning_rate /= 5.0", "self.learning_rate /= 2.0"),
        ("invscaling a sample late", "the rate is too great",
         "Stepper.iteration_ends", "n_seen + 1", "n_seen"),
        ("Adam's steps not counted", "its averages stay uncorrected",
         "Stepper.next_scalars", "self.t += 1", ""),
        ("the last part twice", "samples are predicted more than once",
         "infer", "X[first : min(first + AT_ONCE, n), :]",
         "X[max(0, min(first, n - AT_ONCE)) : min(first + AT_ONCE, n), :]"),
        ("batches' losses of one weight", "an epoch's loss counts a short batch as a whole",
         "compiled_step.step", "value * X.shape[0]", "value"),
        ("R² of one output for all", "an output that varies more counts more",
         "r2", "1 - xp.sum(ratios) / ratios.shape[0]", "1 - xp.sum(errors) / xp.sum(deviations)"),
        ("R² without weights", "the score counts all samples the same",
         "r2", "weights[:, None]", "xp.ones_like(T[:, :1])"),
        ("hits without weights", "the score counts all samples the same",
         "mean_of_hits", "weights is None", "True"),
        ("half the squares summed over outputs", "the loss is not scikit-learn's",
         "_reported_loss", "0.5 / S.shape[1]", "0.5"),
    ),
]
# fmt: on
