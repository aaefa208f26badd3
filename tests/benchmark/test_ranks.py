"""scripts/ranks.py: the formula and its fit, and the command. (No test looks at how long anything takes.)"""

import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from xpmlp.backends.probe import Report
from xpmlp.commands import main
from xpmlp.errors import ConfigError

sys.path.insert(0, str(ROOT / "scripts"))  # as Python does for a script of that folder
from ranks import ranks as command
from ranks import tables
from scaling.formula import LINKS, Computing, Line, Link, efficiency, fit_line, link_behind, sum_seconds
from scaling.launches import Launched, Way, find_launcher, summarise, ways

sys.path.pop(0)

BYTES = [4.0**k for k in range(1, 13)]


def run(*options):
    return main(options, command=command, program="ranks.py")


class TestTheSumsTime:
    """(S2): 2 ceil(log2 n) * latency + 2 (n - 1) / n * bytes / bandwidth."""

    @pytest.mark.parametrize(
        ("n_ranks", "expected"),
        [(1, 0.0), (2, 2 * 3.0 + 100 / 10), (4, 4 * 3.0 + 150 / 10), (5, 6 * 3.0 + 160 / 10), (8, 6 * 3.0 + 175 / 10)],
    )
    def test_is_its_messages_and_its_bytes(self, n_ranks, expected):
        assert sum_seconds(n_ranks, 100, Link("slow", 3.0, 10.0)) == pytest.approx(expected, rel=1e-12)

    @given(start=st.floats(1e-7, 1e-1), slope=st.floats(1e-12, 1e-6))
    def test_is_fitted_by_the_line_that_it_is(self, start, slope):
        line = fit_line(BYTES, [start + slope * n for n in BYTES])
        n = np.array(BYTES)
        np.testing.assert_allclose(line.start + line.slope * n, start + slope * n, rtol=1e-8)

    @pytest.mark.parametrize("seconds", [[1.0, 2.0, 1.0, 0.5], [1e-9, 4.0, 16.0, 70.0]])
    def test_has_no_number_below_0(self, seconds):
        line = fit_line([1.0, 4.0, 16.0, 64.0], seconds)
        assert min(line) >= 0.0
        assert max(line) > 0.0

    def test_counts_twice_as_long_as_half_as_long_for_short_vectors_and_long_ones(self):
        """Of pairs at the same length the line is the geometric mean; their mean would be 1.25 times that."""
        seconds = [1e-6 + 1e-9 * n for n in BYTES]
        both = [factor * second for factor in (0.5, 2.0) for second in seconds]
        np.testing.assert_allclose(fit_line([*BYTES, *BYTES], both), (1e-6, 1e-9), rtol=1e-6)

    @given(n_ranks=st.integers(2, 64), start=st.floats(1e-7, 1e-2), slope=st.floats(1e-12, 1e-7))
    def test_of_the_link_behind_a_line_is_that_line(self, n_ranks, start, slope):
        link = link_behind(Line(start, slope), n_ranks, "here")
        for n_bytes in BYTES:
            assert sum_seconds(n_ranks, n_bytes, link) == pytest.approx(start + slope * n_bytes, rel=1e-9)

    def test_of_a_line_without_slope_is_that_of_its_messages(self):
        assert sum_seconds(2, 1e9, link_behind(Line(0.5, 0.0), 2, "here")) == 0.5


class TestEfficiency:
    COMPUTING = Computing((1, 100, 1000), (2.0, 101.0, 1001.0))
    """A step of b images takes 1 + b."""

    def test_reads_between_the_sizes_and_in_proportion_above(self):
        assert self.COMPUTING.at(50) == pytest.approx(51.0)
        assert self.COMPUTING.at(2000) == pytest.approx(2002.0)

    @pytest.mark.parametrize("link", LINKS)
    @pytest.mark.parametrize("every", [1, 64])
    def test_is_all_of_one_rank_and_less_of_more(self, link, every):
        found = [efficiency(self.COMPUTING, 1000, n, 1e6, link, every) for n in (1, 2, 8, 64, 512)]
        assert found[0] == pytest.approx(1.0)
        assert all(0 < later < earlier for earlier, later in itertools.pairwise(found))

    def test_is_what_the_formula_says(self):
        """1001 s alone; four ranks compute 251 s each and sum for 4 · 3 + 1.5 · 100 / 10 = 27 s, or a 9th of it."""
        link = Link("slow", 3.0, 10.0)
        assert efficiency(self.COMPUTING, 1000, 4, 100, link) == pytest.approx(1001 / (4 * (251 + 27)))
        assert efficiency(self.COMPUTING, 1000, 4, 100, link, 9) == pytest.approx(1001 / (4 * (251 + 3)))

    def test_of_the_longest_part_counts(self):
        endless = Link("ideal", 0.0, math.inf)
        assert efficiency(self.COMPUTING, 10, 4, 100, endless) == pytest.approx(11 / (4 * 4)), "3, 3, 2 and 2 rows"

    def test_of_more_ranks_than_rows_is_none(self):
        assert efficiency(self.COMPUTING, 7, 8, 100, LINKS[0]) is None


class TestTheRows:
    def test_are_medians_against_one_rank_of_one_thread(self):
        description = {"bytes_a_step": 1000, "local_size": 1, "cores": 2}
        crowd = {**description, "local_size": 4}
        results = [
            Launched(1, 1, {32: [3.0, 5.0], 64: [8.0], 16: [2.0]}, {}, description),
            Launched(1, 2, {32: [4.0], 64: [5.0]}, {}, description),
            Launched(2, 1, {32: [2.0], 64: [5.0]}, {4: [1.0, 1.0, 7.0], 1000: [1.5], 4000: [2.0]}, description),
            Launched(1, 1, {32: [4.0]}, {}, description),
            Launched(3, 1, {32: [9.0]}, {}, crowd),
            Launched(4, 1, problem="exit code 1: no"),
        ]
        found = summarise(results, [32])
        strong = {(row["ranks"], row["threads"]): row for row in found["strong"]}
        weak = {row["ranks"]: row for row in found["weak"]}
        assert (strong[1, 1]["seconds"], strong[1, 1]["least"], strong[1, 1]["most"]) == (4.0, 3.0, 5.0)
        assert (strong[1, 2]["speed_up"], strong[1, 2]["efficiency"]) == (1.0, 0.5)
        assert (strong[2, 1]["speed_up"], strong[2, 1]["efficiency"]) == (2.0, 1.0)
        assert [strong[n, 1]["crowded"] for n in (1, 2, 3)] == [False, False, True], "by the cores of a host"
        assert (weak[2]["seconds"], weak[2]["speed_up"], weak[2]["efficiency"]) == (5.0, 1.6, 0.8), "64 in all"
        (line,) = found["sums"]
        assert line["seconds"] == {4: 1.0, 1000: 1.5, 4000: 2.0}
        assert strong[2, 1]["formula"] == 2.0 + 1.5, "16 rows each, and what summing 1000 bytes takes"
        assert found["computing"] == {16: 2.0, 32: 4.0, 64: 8.0}
        assert found["problems"] == ["4 ranks of 1 thread: exit code 1: no"]
        assert {row["link"] for row in found["predicted"]} == {"as measured here", *(link.name for link in LINKS)}
        assert "PREDICTED, not measured" in tables(found)

    def test_are_none_where_nothing_was_measured(self):
        found = summarise([Launched(1, 1, problem="exit code 1: no")], [32])
        assert (found["strong"], found["weak"], found["sums"], found["predicted"]) == ([], [], [], [])
        assert tables(found)

    def test_are_of_one_process_of_all_cores_too(self):
        assert ways([4, 2, 2], cores=8) == [Way(1, 1), Way(1, 8), Way(2, 1), Way(4, 1)]
        assert ways([1], cores=1) == [Way(1, 1)]


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def at_home(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            monkeypatch.setenv(name, "1")
        return tmp_path

    @pytest.mark.full
    def test_measures_predicts_writes_and_draws(self, mpiexec, mnist_like, at_home, capsys):
        options = ["--ranks", "1,2", "--data-dir", str(mnist_like), "--hidden", "8", "--batch-size", "32"]
        assert run(*options, "--rounds", "1", "--epochs", "1", "--launcher", mpiexec) == 0
        said, errors = capsys.readouterr()
        assert errors == ""
        assert "\n| 32 | 2 × 1" in said
        assert "PREDICTED, not measured" in said
        assert "NCCL was not run" in said
        lines = [json.loads(line) for line in (at_home / "benchmark" / "ranks.jsonl").read_text().splitlines()]
        assert [line["problem"] for line in lines] == [""] * len(lines)
        assert {(line["ranks"], line["threads"]) for line in lines} >= {(1, 1), (2, 1)}
        two = lines[-1]
        assert set(two["steps"]) == {"32", "64"}
        assert two["description"]["bytes_a_step"] in map(int, two["sums"])
        assert "MPI" in two["description"]["engine"]
        assert all(len(seconds) >= 5 and min(seconds) > 0 for seconds in two["sums"].values())
        record = json.loads((at_home / "benchmark" / "ranks.json").read_text())
        assert record["bytes"] == 4 * (784 * 8 + 8 + 8 * 10 + 10 + 3)
        assert (at_home / "benchmark" / "ranks.png").read_bytes().startswith(b"\x89PNG")

    @pytest.fixture
    def launcher(self, mpiexec, at_home):
        """A launcher that fails with three ranks, once they are to do something."""
        path = at_home / "launcher"
        path.write_text(f'#!/bin/sh\ncase "$*" in *"-n 3"*rank.py*) exit 1;; esac\nexec {mpiexec} "$@"\n')
        path.chmod(0o755)
        return str(path)

    @pytest.mark.parametrize(("ranks", "code"), [pytest.param("2,3", 0, marks=pytest.mark.full), ("3", 2)])
    @pytest.mark.slow
    def test_a_launch_that_fails_is_a_problem_and_the_others_are_told(
        self, launcher, mnist_like, at_home, capsys, ranks, code
    ):
        options = ["--ranks", ranks, "--data-dir", str(mnist_like), "--hidden", "8", "--batch-size", "32"]
        assert run(*options, "--rounds", "1", "--epochs", "1", "--launcher", launcher) == code
        said, errors = capsys.readouterr()
        assert "problem  exit code 1: no message" in said
        assert ("\n| 32 | 2 × 1" in said) == (code == 0)
        assert errors == ("" if code == 0 else "ranks.py: nothing was measured: exit code 1: no message\n")
        assert (at_home / "benchmark" / "ranks.png").exists() == (code == 0)

    @pytest.mark.parametrize(
        ("launcher", "message"),
        [
            ("true", "'true' started 0 of 2 processes\n"),
            ("mpiexec --nonsense", "started 0 of 2 processes: An unrecognized option"),
        ],
    )
    def test_a_launcher_that_starts_nothing_is_refused(
        self, mpiexec, mnist_like, at_home, capsys, monkeypatch, launcher, message
    ):
        monkeypatch.setenv("PATH", os.path.dirname(mpiexec), prepend=os.pathsep)
        if launcher != "true" and "Open MPI" not in subprocess.check_output([mpiexec, "--version"], text=True):
            pytest.skip("the words are those of Open MPI's mpiexec")
        options = ("--ranks", "2", "--data-dir", str(mnist_like), "--batch-size", "32")
        assert run(*options, "--launcher", launcher) == 2
        said, errors = capsys.readouterr()
        assert message in errors
        assert (said, errors.count("\n")) == ("", 1)
        assert list(at_home.iterdir()) == [mnist_like]

    def test_a_library_that_is_missing_is_refused(self, mnist_like, at_home, capsys, monkeypatch):
        missing = [Report("cupy", problem="cupy cannot run here")]
        monkeypatch.setattr("ranks.probe_apart", lambda name: missing)
        assert run("--ranks", "2", "--backend", "cupy", "--data-dir", str(mnist_like)) == 2
        assert capsys.readouterr() == ("", "ranks.py: cupy cannot run here\n")
        assert list(at_home.iterdir()) == [mnist_like]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--ranks", "0"], "--ranks 0: expected whole numbers of at least 1"),
            (["--ranks", "2", "--hidden", "8,0"], "--hidden 8,0: expected whole numbers of at least 1"),
            (["--ranks", "many"], "'many': expected whole numbers with commas between them, such as 1,2,4"),
            (["--ranks", "2", "--batch-size", "0"], "--batch-size 0: expected whole numbers of at least 1"),
            (["--ranks", "2,256"], "256 ranks for batches of 128 images: each needs at least one"),
            pytest.param(
                ["--ranks", "2", "--batch-size", "70000"],
                "--batch-size 70000: there are 600 training images; make it",
                marks=pytest.mark.needs(module="mpi4py"),
            ),
            (["--ranks", "2", "--backend", "numpy,jax"], "--backend numpy,jax: expected one of numpy"),
            (["--ranks", "2", "--peers", "thinc"], "No such option '--peers'"),
            (["--ranks", "2", "--launcher", "no-such-launcher"], "no 'no-such-launcher' to start ranks with"),
            (["--ranks", "2", "--launcher", "'"], "cannot be read: No closing quotation"),
        ],
    )
    def test_refuses_in_one_line(self, at_home, capfd, mnist_like, options, message):
        assert run("--data-dir", str(mnist_like), "--launcher", sys.executable, *options) == 2
        said, errors = capfd.readouterr()
        assert message in errors
        assert (said, errors.count("\n")) == ("", 1)
        assert list(at_home.iterdir()) == [mnist_like]

    def test_names_what_is_missing(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"several ranks need mpi4py: pip install 'xpmlp\[mpi\]'"):
            find_launcher("true")

    def test_says_what_open_mpi_wants_of_root(self, mpiexec, monkeypatch, at_home):
        (at_home / "launcher").write_text("#!/bin/sh\necho 'mpiexec (Open MPI) 5.0'\n")
        (at_home / "launcher").chmod(0o755)
        monkeypatch.setattr("os.geteuid", lambda: 0)
        assert find_launcher(f"{at_home}/launcher --bind-to none")[1:] == ("--bind-to", "none")
        monkeypatch.delenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
        with pytest.raises(ConfigError, match="unless OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "):
            find_launcher(f"{at_home}/launcher")
