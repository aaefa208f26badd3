"""Measure how fast batches get to the device, resident or streamed, and how much of that a training step hides.

``python scripts/transfer.py --backend numpy`` prints medians over rounds in which all ways take turns. The images are
synthetic, 28 × 28, so no data set is needed.
"""

import statistics
import sys
import time

import click
import numpy as np

from xpmlp import Dataset, DeviceLoader, Layout, get_backend, init
from xpmlp.commands import main
from xpmlp.training.config import TrainConfig, make_optimizer
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.steps import make_step, zero_totals


@click.command()
@click.option("--backend", default="auto", show_default=True)
@click.option("--batch-size", default=128, show_default=True)
@click.option("--images", default=60_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def transfer(backend: str, batch_size: int, images: int, rounds: int) -> None:
    """Measure how fast batches get to the device."""
    device = get_backend(backend)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 28, 28), dtype=np.uint8)
    dataset = Dataset(pixels, rng.integers(0, 10, images, dtype=np.uint8), tuple("0123456789"), 255, "made up")
    loaders = {
        "resident": DeviceLoader(dataset, device, batch_size, "resident", drop_last=True),
        "stream": DeviceLoader(dataset, device, batch_size, "stream", drop_last=True, reuse_buffers=True),
    }
    layout, optimizer = Layout((784, 256, 128, 10)), make_optimizer(TrainConfig())
    theta = device.asarray(init(layout, rng), copy=True)
    state, totals = optimizer.init(theta), zero_totals(device, "float32")
    step = device.compile(make_step(ImageObjective(layout, 255), optimizer), donate=(0, 1, 2))
    permutation = rng.permutation(images)
    same = next(iter(DeviceLoader(dataset, device, batch_size).batches(permutation)))
    n_batches = images // batch_size

    def epoch(batches, train: bool) -> float:
        nonlocal theta, state, totals
        device.synchronize()
        began = time.perf_counter()
        for k, batch in enumerate(batches, start=1):
            if train:
                theta, state, totals = step(theta, state, totals, batch, optimizer.scalars(k, 1e-4))
        device.synchronize()
        return time.perf_counter() - began

    times: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        times.setdefault("steps alone", []).append(epoch((same for _ in range(n_batches)), train=True))
        for name, loader in loaders.items():
            times.setdefault(name, []).append(epoch(loader.epoch(permutation), train=False))
            times.setdefault(f"{name}, with steps", []).append(epoch(loader.batches(permutation), train=True))
    click.echo(f"{device}, {device.describe()['device']}: {n_batches} batches of {batch_size}, {rounds} rounds")
    median = {name: statistics.median(found[1:]) for name, found in times.items()}  # the first round compiles
    alone = median["steps alone"]
    for name, seconds in median.items():
        each = 1e6 * seconds / n_batches
        rates = f"{images / seconds:>12,.0f} images/s {pixels.nbytes / seconds / 1e9:>7.2f} GB/s"
        line = f"{name:<22}{each:>9.0f} µs a batch {rates}"
        if name.endswith("with steps"):
            loading = median[name.partition(",")[0]]
            line += (
                f"   {1e6 * (seconds - alone) / n_batches:+.0f} µs for {1e6 * loading / n_batches:.0f} µs of loading"
            )
        click.echo(line)
    if device.name == "cupy":
        click.echo(f"{'pinned copies alone':<22}{'':>42}{_ceiling(device):>9.2f} GB/s")


def _ceiling(device) -> float:
    """Return the GB/s of one large copy from page-locked memory, the limit of a stream."""
    copier = device.copier()
    host = copier.host_buffer((256 << 20,), "uint8")
    buffer = copier.device_buffer(host)
    found = []
    for _ in range(10):
        began = time.perf_counter()
        copier.copy(host, buffer, len(host))
        copier.finish()
        found.append(len(host) / (time.perf_counter() - began) / 1e9)
    return statistics.median(found)


if __name__ == "__main__":
    sys.exit(main(command=transfer, program="transfer.py"))
