"""Files that are whole or not there, and the lock."""

import os
import subprocess
import sys

import pytest

from tests.conftest import environment
from xpmlp.errors import CheckpointError
from xpmlp.storage import files
from xpmlp.storage.files import FolderLock, write_whole


def test_a_file_is_written_and_written_anew(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"", b"three"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    order = []
    sync, replace, sync_folder = os.fsync, os.replace, files.flush_folder
    monkeypatch.setattr("os.fsync", lambda descriptor: (order.append("bytes"), sync(descriptor)))
    monkeypatch.setattr("pathlib.Path.replace", lambda self, to: (order.append("name"), replace(self, to)))
    monkeypatch.setattr(files, "flush_folder", lambda path: (order.append(path), sync_folder(path)))
    write_whole(tmp_path / "file", b"content")
    assert order[:3] == ["bytes", "name", tmp_path]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_where_writing_fails_the_old_file_stays_and_nothing_is_beside_it(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_write_one_file_do_not_disturb_each_other(tmp_path):
    code = (
        "import sys\n"
        "from xpmlp.storage.files import write_whole\n"
        "for _ in range(100): write_whole(sys.argv[1], sys.argv[2].encode() * 10_000)"
    )
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), sign]) for sign in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_bytes() in (b"a" * 10_000, b"b" * 10_000)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(path, b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert path.is_fifo()


HOLD = "import sys, pathlib; from xpmlp.storage.files import FolderLock; lock = FolderLock(pathlib.Path(sys.argv[1])); print('has it', flush=True); input()"  # noqa: E501


def test_a_folder_is_locked_by_one_process_and_its_death_unlocks_it(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as other:
        assert other.stdout.readline() == b"has it\n"
        with pytest.raises(CheckpointError, match=f"is being written by the process {other.pid}: wait for its end"):
            FolderLock(tmp_path)
        other.kill()
        other.wait()
    lock = FolderLock(tmp_path)
    with pytest.raises(CheckpointError, match=f"is being written by the process {os.getpid()}"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()
