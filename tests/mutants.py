# ruff: noqa: E402, T201
"""Put one fault at a time into a copy of the project, and show which test finds it, and in which mode.

``python tests/mutants.py``, in an environment where CuPy has the emulated CUDA device. `tests/mutants_table.py` has
the faults. It fails unless every fault is found, and every test that is to find one passes without it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not tests/, where the folder math would be taken for the module

import argparse
import ast
import functools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

from tests.mutants_table import MUTANTS, Mutant

MODES = {
    "plain": {"CUDA_ON_CPU": "0"},
    "now": {"CUDA_ON_CPU_MODE": "now"},
    "lazy": {"CUDA_ON_CPU_MODE": "lazy"},
    "skew": {"CUDA_ON_CPU_MODE": "skew"},
    "reverse": {"CUDA_ON_CPU_ORDER": "reverse"},
    "shuffle": {"CUDA_ON_CPU_ORDER": "shuffle"},
    "two": {"CUDA_ON_CPU_DEVICES": "2"},
    "two-lazy": {"CUDA_ON_CPU_DEVICES": "2", "CUDA_ON_CPU_MODE": "lazy"},
    "checked-end": {"CUDA_ON_CPU_CHECKED": "end", "CUDA_ON_CPU_ALLOCATOR": "each"},
    "checked-start": {"CUDA_ON_CPU_CHECKED": "start", "CUDA_ON_CPU_ALLOCATOR": "each"},
    "reused": {"CUDA_ON_CPU_MODE": "lazy", "CUDA_ON_CPU_ALLOCATOR": "stream"},
}
"""Without the device; when it does what is queued; in which order a kernel's threads run; two devices; memory."""

COPIED = ("xpmlp", "tests", "scripts", "pyproject.toml", "README.md")
DEVICE = "import cupy; print(cupy.cuda.runtime.getDeviceProperties(0)['name'].decode())"
TITLE = "| mutant | where | found by | mode |\n|---|---|---|---|"
HEAD = """\
# Faults and the tests that find them

`python tests/mutants.py --write` writes this page. It puts each fault of `tests/mutants_table.py` alone into a copy of
the project. Then it runs some tests on CuPy's emulated CUDA device (*plain*: without it), up to the first that fails.

"""


class MutantError(Exception):
    """What keeps a mutant from being made or judged."""


# --- a fault's place -----------------------------------------------------------------------------------------------


def mutated(source: str, mutant: Mutant) -> str:
    """Return a file's text with the fault in it."""
    text = source.encode()
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]

    def span(node: ast.AST) -> tuple[int, int]:
        begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        return tuple(starts[line - 1] + column for line, column in (begin, end))

    place = parsed(source)
    for name in mutant.where.split("."):
        place = inside(place, name, mutant)
    new = mutant.new
    if isinstance(place, ast.Assign):
        begin, end = span(place)
        words = rb"\s+".join(re.escape(word) for word in mutant.old.encode().split())
        spans = [(begin + found.start(), begin + found.end()) for found in re.finditer(words, text[begin:end])]
    else:
        (wanted,) = ast.parse(mutant.old).body
        spans, new = [span(node) for node in equal(place, wanted)], new or "pass"
        if not spans and isinstance(wanted, ast.Expr):
            spans, new = [span(node) for node in equal(place, wanted.value)], f"({mutant.new or None})"
    if len(spans) != mutant.times:
        raise MutantError(
            f"{mutant.name}: {mutant.file}, {mutant.where} has {mutant.old!r} {len(spans)} times, not {mutant.times}"
        )
    for begin, end in sorted(spans, reverse=True):
        indent = b"\n" + b" " * (begin - max(start for start in starts if start <= begin))
        text = text[:begin] + new.encode().replace(b"\n", indent) + text[end:]
    found = text.decode()
    try:
        ast.parse(found)
    except SyntaxError as error:
        raise MutantError(f"{mutant.name}: with {mutant.new!r} {mutant.file} is no Python: {error}") from None
    if mutant.old.split() == mutant.new.split():
        raise MutantError(f"{mutant.name}: {mutant.new!r} changes nothing")
    return found


@functools.cache
def parsed(source: str) -> ast.Module:
    """Return a file's tree."""
    return ast.parse(source)


def equal(place: ast.AST, wanted: ast.AST) -> list[ast.AST]:
    """Return all that is written the same within a place, however it is laid out."""
    said = ast.dump(wanted)
    return [node for node in ast.walk(place) if type(node) is type(wanted) and ast.dump(node) == said]


def inside(place: ast.AST, name: str, mutant: Mutant) -> ast.AST:
    """Return the function or class of this name within another, or the module's assignment to it."""
    for node in ast.walk(place):  # the outermost first
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name and node is not place:
            return node
    for node in getattr(place, "body", []):
        if isinstance(node, ast.Assign) and name in [getattr(target, "id", None) for target in node.targets]:
            return node
    raise MutantError(f"{mutant.name}: {mutant.file} has no {mutant.where}")


# --- running tests -------------------------------------------------------------------------------------------------


def first_failure(folder: Path, mutant: Mutant, mode: str) -> str | None:
    """Return the first test that fails, None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
    command += ["--hypothesis-seed=0", *([] if mode == "plain" else ["--require-backend", "cupy"])]
    others = set().union(*MODES.values())
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", **MODES[mode]}
    limit = 60 if mutant.ends == "hangs" else 300
    try:
        done = subprocess.run(
            [*command, *shlex.split(mutant.tests)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        if mutant.ends == "hangs":
            return mutant.ends
        raise MutantError(f"{mutant.name}: {mutant.tests} in mode {mode}: no end after {limit} s") from None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - |$)", done.stdout, re.M)
    if done.returncode == 1 and failed:
        return failed[1]
    if done.returncode == 0 and re.search(r"\d+ passed", done.stdout):
        return None
    if done.returncode < 0 and mutant.ends == "crashes":
        return mutant.ends
    last = " ".join(done.stdout.splitlines()[-2:])[:200]
    raise MutantError(f"{mutant.name}: {mutant.tests} in mode {mode}: pytest ended with {done.returncode}: {last}")


def copied(folder: str) -> Path:
    """Return a folder with a copy of what the tests need."""
    for name in COPIED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)
    return Path(folder)


def require_passing(mutant: Mutant, mode: str) -> None:
    """Refuse tests that fail without the fault."""
    with tempfile.TemporaryDirectory() as folder:
        failed = first_failure(copied(folder), mutant, mode)
    if failed:
        raise MutantError(f"without any fault, in mode {mode}: {failed} fails")


def search(mutant: Mutant, all_modes: bool) -> dict[str, str]:
    """Return the modes that find a fault, each with the test that does."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = copied(folder) / mutant.file
        path.write_text(mutated(path.read_text(encoding="utf-8"), mutant), encoding="utf-8")
        for mode in modes_of(mutant, all_modes):
            try:
                test = first_failure(Path(folder), mutant, mode)
            except MutantError as error:
                print(f"mutants.py: {error}", file=sys.stderr, flush=True)
                continue
            if test:
                found[mode] = test
                if not all_modes:
                    break
    return found


def modes_of(mutant: Mutant, all_modes: bool) -> list[str]:
    """Return the modes to try, the one that is expected to find the fault first; without the device, no other."""
    others = [mode for mode in MODES if all_modes and "plain" not in mutant.modes and mode != "plain"]
    return list(dict.fromkeys([*mutant.modes, *others]))


# --- the command ---------------------------------------------------------------------------------------------------


def rows(found: dict[Mutant, dict[str, str]]) -> dict[str, str]:
    """Return a line of a table in Markdown for each mutant, by its name."""
    lines = {}
    for mutant, tests in found.items():
        test = f"`{next(iter(tests.values()))}`" if tests else f"nothing: {mutant.unseen}"
        where = f"{mutant.file.removeprefix('xpmlp/')}: `{mutant.where}`"
        lines[mutant.name] = f"| {mutant.name}: {mutant.why} | {where} | {test} | {', '.join(tests)} |"
    return lines


def write(found: dict[Mutant, dict[str, str]]) -> None:
    """Write the table; the lines of mutants that were not run stay as they were."""
    file = ROOT / "tests" / "MUTANTS.md"
    before = file.read_text(encoding="utf-8").splitlines()[6:] if file.exists() else []
    lines = {line.split(":")[0].removeprefix("| "): line for line in before} | rows(found)
    file.write_text(
        "\n".join([HEAD + TITLE, *(lines[m.name] for m in MUTANTS if m.name in lines), ""]), encoding="utf-8"
    )


def run(mutants: list[Mutant], all_modes: bool, at_once: int) -> dict[Mutant, dict[str, str]]:
    """Return what finds each mutant, and say so as it goes."""
    ways = {(m.tests, m.ends, mode): m for m in mutants for mode in modes_of(m, all_modes)}
    found = {}
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for _ in pool.map(lambda way: require_passing(ways[way], way[2]), ways):
                pass
            print(f"without any fault all tests pass, in {len(ways)} ways", flush=True)
            searches = pool.map(lambda mutant: search(mutant, all_modes), mutants)
            for k, (mutant, tests) in enumerate(zip(mutants, searches, strict=True), start=1):
                found[mutant] = tests
                said = "; ".join(f"{mode}: {test}" for mode, test in tests.items())
                print(f"{k}/{len(mutants)} {mutant.name}: {said or mutant.unseen or 'NOT FOUND'}", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def main() -> int:
    """Run the mutants and return the exit status."""
    parser = argparse.ArgumentParser(description="Which test finds which fault.")
    parser.add_argument("names", nargs="*", help="these mutants (all)")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="so many at once (%(default)s)")
    parser.add_argument("--list", action="store_true", help="the mutants' names, and run nothing")
    parser.add_argument("--all-modes", action="store_true", help="go on after the first mode that finds a mutant")
    parser.add_argument(
        "--write", action="store_true", help="write tests/MUTANTS.md, or the named mutants' lines in it"
    )
    given = parser.parse_args()
    if given.list:
        print(*(f"{m.name}: {m.why} ({m.file}, {m.where})" for m in MUTANTS), sep="\n")
        return 0
    unknown = set(given.names) - {m.name for m in MUTANTS}
    if unknown:
        parser.exit(2, f"mutants.py: no mutant {', '.join(sorted(unknown))}: --list names them\n")
    if given.j < 1:
        parser.exit(2, f"mutants.py: -j {given.j}: expected at least 1\n")
    device = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True, check=False)
    if device.stdout.strip() != "CUDA on the CPU":
        problem = device.stdout.strip() or (device.stderr.splitlines() or ["nothing"])[-1]
        parser.exit(2, f"mutants.py: {sys.executable} has no emulated CUDA device: {problem}\n")
    mutants = [m for m in MUTANTS if m.name in given.names or not given.names]
    try:
        for m in mutants:
            mutated((ROOT / m.file).read_text(encoding="utf-8"), m)
        found = run(mutants, given.all_modes, given.j)
    except MutantError as error:
        parser.exit(1, f"mutants.py: {error}\n")
    print(TITLE, *rows(found).values(), sep="\n")
    missed = [m.name for m in mutants if not found[m] and not m.unseen]
    seen = [m.name for m in mutants if found[m] and m.unseen]
    if missed:
        print(f"mutants.py: not found: {', '.join(missed)}", file=sys.stderr)
    elif given.write:
        write(found)
    if seen:
        print(f"mutants.py: found, though said to be unseen: {', '.join(seen)}", file=sys.stderr)
    return 1 if missed or seen else 0


if __name__ == "__main__":
    sys.exit(main())
