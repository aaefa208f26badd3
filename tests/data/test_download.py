"""The downloader against a server that serves well, slowly, in part, wrongly or never, and networks that hang."""

import gzip
import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import xpmlp.data.download as downloading
from tests.conftest import environment, make_dataset, run_python
from xpmlp.data import idx, load_dataset
from xpmlp.data.download import download
from xpmlp.data.idx_folders import missing as _missing
from xpmlp.data.sources import FILES, SOURCES, Source
from xpmlp.errors import DataError


def zipped(array):
    return gzip.compress(b"".join(idx.contents_of(array)), mtime=0)


TRAIN, TEST = make_dataset(4000), make_dataset(60, seed=1)
CONTENTS = dict(zip(FILES, map(zipped, (TRAIN.images, TRAIN.labels, TEST.images, TEST.labels)), strict=True))
SUMS = {file: hashlib.sha256(content).hexdigest() for file, content in CONTENTS.items()}


class Handler(BaseHTTPRequestHandler):
    """What a mirror does is the first part of its path."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, *, head):
        _, way, file = self.path.split("/")
        content = CONTENTS[file.removesuffix(".gz")]
        self.server.asked.append((way, "HEAD" if head else "GET", file))
        if way == "silent":
            self.server.is_over.wait()
            return
        if way.isdecimal():
            self.send_error(int(way))
            return
        if way == "html":
            content = b"<html>Please sign in to the hotel's network</html>"
        if way == "wrong":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if head:
            return
        if way == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif way == "slow":
            for first in range(0, len(content), 4096):
                self.wfile.write(content[first : first + 4096])
                self.wfile.flush()
                time.sleep(0.02)
        else:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that was killed


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.is_over = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.is_over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(server):
    """Return a function from ways of serving to a source with a mirror for each."""

    def make(*ways):
        mirrors = tuple(f"http://127.0.0.1:{server.server_port}/{way}/" for way in ways)
        return Source(tuple("abc"), mirrors, SUMS)

    return make


@pytest.fixture
def soon(monkeypatch):
    """Give up after half a second, not ten."""
    monkeypatch.setattr(downloading, "ANSWER_WITHIN", 0.5)
    monkeypatch.setattr(downloading, "STALLED_AFTER", 0.5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("XPMLP_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "xpmlp"


def is_whole(folder):
    return all((folder / f"{file}.gz").read_bytes() == content for file, content in CONTENTS.items())


class TestDownload:
    @pytest.mark.parametrize("way", ["good", "slow"])
    def test_brings_all_files(self, source, tmp_path, way):
        download("mnist", source(way), tmp_path / "deep" / "folder")
        assert is_whole(tmp_path / "deep" / "folder")
        assert len(list((tmp_path / "deep" / "folder").iterdir())) == 4

    def test_tells_how_it_goes_on(self, source, tmp_path):
        said = []
        download("mnist", source("slow"), tmp_path, lambda *words: said.append(words))
        for file, content in CONTENTS.items():
            steps = [(done, total) for name, done, total in said if name == f"{file}.gz"]
            assert steps[-1] == (len(content), len(content))
            assert {total for _, total in steps} == {len(content)}

    @pytest.mark.parametrize("bad", ["404", "503", "cut", "wrong", "html", "silent"])
    def test_takes_another_mirror_where_one_is_bad(self, source, tmp_path, soon, bad):
        download("mnist", source(bad, "good"), tmp_path)
        assert is_whole(tmp_path)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ("404", "HTTP status 404"),
            ("503", "HTTP status 503"),
            ("cut", "train-images-idx3-ubyte.gz: "),
            ("wrong", "not the file that was published"),
            ("html", "not the file that was published"),
            ("silent", "no answer in"),
        ],
    )
    def test_leaves_no_file_that_looks_whole_and_is_not(self, source, tmp_path, soon, bad, message):
        with pytest.raises(DataError, match=f"mnist cannot be downloaded .*{message}") as caught:
            download("mnist", source(bad), tmp_path)
        assert "\n" not in str(caught.value)
        assert f"/{bad}/" in str(caught.value), "the mirror is named"
        assert list(tmp_path.iterdir()) == []

    def test_keeps_what_is_there(self, source, server, tmp_path):
        file = FILES[0]
        (tmp_path / f"{file}.gz").write_bytes(CONTENTS[file])
        download("mnist", source("good"), tmp_path)
        assert not [asked for asked in server.asked if asked[1:] == ("GET", f"{file}.gz")]

    def test_replaces_what_is_damaged(self, source, tmp_path):
        (tmp_path / f"{FILES[0]}.gz").write_bytes(b"half a file")
        download("mnist", source("good"), tmp_path)
        assert is_whole(tmp_path)

    @pytest.mark.parametrize("folder", ["/proc/xpmlp", "/dev/null/xpmlp"])
    def test_a_cache_that_cannot_be_written_is_named_before_anything_is_asked(self, source, server, folder):
        with pytest.raises(DataError, match=f"the cache folder {folder} cannot be written"):
            download("mnist", source("good"), Path(folder))
        assert server.asked == []

    SCRIPT = """
import sys
from pathlib import Path
from xpmlp.data.download import download
from xpmlp.data.sources import Source
download("mnist", Source(("a",), (sys.argv[1],), {sums!r}), Path(sys.argv[2]))
"""

    def command(self, mirror, folder, before=""):
        return [sys.executable, "-c", before + self.SCRIPT.format(sums=SUMS), mirror, str(folder)]

    def test_two_processes_at_once_do_not_disturb_each_other(self, source, tmp_path):
        command = self.command(source("slow").mirrors[0], tmp_path)
        processes = [subprocess.Popen(command, env=environment()) for _ in range(2)]
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
        assert is_whole(tmp_path)

    def test_a_process_that_is_killed_leaves_no_file_that_looks_whole(self, source, server, tmp_path):
        process = subprocess.Popen(self.command(source("slow").mirrors[0], tmp_path), env=environment())
        while not [asked for asked in server.asked if asked[1] == "GET"]:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(tmp_path.iterdir()), "it had begun to write"
        assert _missing(tmp_path, "mnist")
        for file, content in CONTENTS.items():
            path = tmp_path / f"{file}.gz"
            assert not path.exists() or path.read_bytes() == content
        download("mnist", source("good"), tmp_path)
        assert all((tmp_path / f"{file}.gz").read_bytes() == content for file, content in CONTENTS.items())

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits")
    def test_a_disk_that_fills_up_is_named(self, source, tmp_path):
        limit = (
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        )
        command = self.command(source("good").mirrors[0], tmp_path, before=limit)
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert "DataError: the cache folder" in done.stderr
        assert "File too large" in done.stderr
        assert list(tmp_path.iterdir()) == []


class TestANetworkThatHangs:
    """Each would take for ever, or a time limit for each address, if the clock were not looked at."""

    def test_in_resolving_a_name(self, tmp_path, soon, monkeypatch):
        never = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **keywords: never.wait() and [])
        with pytest.raises(DataError, match="http://mirror.invalid/: no answer in 0 s"):
            download("mnist", Source(("a",), ("http://mirror.invalid/",), SUMS), tmp_path)
        never.set()

    def test_in_eight_dead_addresses(self, tmp_path, soon, monkeypatch):
        tried = []

        class Dead(socket.socket):
            def connect(self, address):
                tried.append(address[0])
                time.sleep(self.gettimeout())
                raise TimeoutError

        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{k}", 80)) for k in range(2, 10)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **keywords: addresses)
        monkeypatch.setattr(socket, "socket", Dead)
        with pytest.raises(DataError, match="no answer in"):
            download("mnist", Source(("a",), ("http://mirror.invalid/",), SUMS), tmp_path)
        assert len(tried) < 8

    def test_does_not_keep_another_mirror_from_answering(self, source, tmp_path, monkeypatch):
        never, real = threading.Event(), socket.getaddrinfo

        def resolve(host, *arguments, **keywords):
            return never.wait() and [] if host == "mirror.invalid" else real(host, *arguments, **keywords)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        mirrors = ("http://mirror.invalid/", *source("good").mirrors)
        download("mnist", Source(("a",), mirrors, SUMS), tmp_path)
        assert is_whole(tmp_path)
        never.set()


class TestLoading:
    def test_downloads_what_is_not_on_disk_once(self, source, server, cache, monkeypatch):
        monkeypatch.setitem(SOURCES, "mnist", source("good"))
        for _ in range(2):
            data = load_dataset("auto")
            assert (data.name, data.warning) == ("mnist", "")
            assert np.array_equal(data.train.images, TRAIN.images)
        assert len([asked for asked in server.asked if asked[1] == "GET"]) == 4
        assert is_whole(cache / "mnist")

    def test_auto_goes_on_with_the_digits_where_nothing_can_be_had(self, source, cache, soon, monkeypatch):
        monkeypatch.setitem(SOURCES, "mnist", source("404", "silent"))
        data = load_dataset("auto")
        assert data.name == "digits"
        assert "HTTP status 404" in data.note
        assert "no answer in" in data.note

    def test_a_data_set_that_was_named_and_cannot_be_had_is_an_error(self, source, cache, monkeypatch):
        monkeypatch.setitem(SOURCES, "fashion-mnist", source("404"))
        with pytest.raises(
            DataError, match="fashion-mnist is not on this disk .* and cannot be downloaded .*--data-dir"
        ):
            load_dataset("fashion-mnist")

    def test_a_given_folder_is_not_filled(self, source, server, tmp_path, monkeypatch):
        monkeypatch.setitem(SOURCES, "mnist", source("good"))
        with pytest.raises(DataError, match="mnist is not in the given folder"):
            load_dataset("mnist", tmp_path)
        assert server.asked == []


def test_the_training_command_says_what_it_downloads(source, cache, tmp_path, monkeypatch, capsys):
    from xpmlp.commands import main

    monkeypatch.setitem(SOURCES, "mnist", source("good"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--backend", "numpy", "--out", "run", "--epochs", "1", "--no-plot"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:4] == [f"download {file}.gz" for file in FILES]


def test_a_terminal_is_shown_a_bar(monkeypatch, capsys):
    from xpmlp.commands._progress import make_download_progress

    monkeypatch.setattr("xpmlp.commands._progress.is_terminal", lambda: True)
    progress = make_download_progress()
    for done in (0, 500, 1000):
        progress("images", done, 1000)
    empty, half, full = capsys.readouterr().out.strip().split("\r")
    assert [part.count("━") for part in (empty, half, full)] == [0, 15, 30]
    assert "50%" in half
    assert "1,000 bytes" in full


def test_importing_the_downloader_does_not_import_what_downloads():
    done = run_python("-c", "import sys, xpmlp.data.download; print({'pooch', 'requests'} & set(sys.modules))")
    assert done.stdout.strip() == "set()"
