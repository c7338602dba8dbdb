"""Files that are whole or not there, and the threads of `cores`."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import atomic_folder, atomic_path, data_dir, read_json, sha256_json
from saerepgeo_lib.files import write_json as write


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(ValueError):
        write(path, {"x": float("nan")})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*a\.json: File too large"):
            write(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_json(path) == {"x": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_is_written_has_the_rights_that_the_system_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "file", 1)
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        assert os.umask(before) == umask
    rights = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert rights == {"file": 0o666 & ~umask, "folder": 0o777 & ~umask}


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1})


def test_the_data_is_the_clones_and_a_user_may_name_another(tmp_path, monkeypatch):
    monkeypatch.delenv("SAEREPGEO_DATA", raising=False)
    assert data_dir() == Path(__file__).resolve().parent.parent / "data"
    monkeypatch.setenv("SAEREPGEO_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.setenv("SAEREPGEO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no data folder at .*nowhere: set"):
        data_dir()


def held(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_is_replaced_whole_and_through_a_link(tmp_path, link):
    folder, target = tmp_path / "a" / "b", tmp_path / "target"
    if link:
        target.mkdir()
        folder.parent.mkdir()
        folder.symlink_to(target)
    for name in ("first", "second"):
        with atomic_folder(folder) as new:
            (new / name).write_text(name)
    assert held(folder) == {"second": "second"} and folder.is_symlink() == link
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_a_folder_stays_as_it_was_when_the_new_one_fails(tmp_path, monkeypatch):
    kept, real = tmp_path / "kept", Path.rename
    write(kept / "x", "old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_folder(kept) as new:
            (new / "x").write_text("half")
            raise error
        assert held(kept) == {"x": '"old"\n'} and list(tmp_path.iterdir()) == [kept]
        kept.rename(tmp_path / ".kept.old")  # a crash between both moves: the next comes back to it

    def fails(self, target):
        if target == kept and not self.name.endswith(".old"):
            raise OSError("disk full")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="disk full"), atomic_folder(kept):
        pass
    assert held(kept) == {"x": '"old"\n'} and list(tmp_path.iterdir()) == [kept]


# In a process of its own, since tests beside each other have one thread each: of 5 rows by a slice
# of columns, which two threads of MKL round otherwise. There is a worker for each thread.
MULTIPLY = """
import torch
from saerepgeo_lib.cores import workers

assert torch.get_num_threads() == 2
generator = torch.Generator().manual_seed(0)
x, weights = (torch.randn(*n, generator=generator) for n in ((5, 384), (384, 3072)))
with workers() as pool:
    assert torch.get_num_threads() == 1 and pool._max_workers == 2
    direct = torch.mm(x, weights[:, :1024])
    handed_over = pool.submit(lambda: torch.mm(x, weights[:, :1024])).result()
    assert pool.submit(torch.get_num_threads).result() == 1
assert torch.equal(direct, handed_over)
assert torch.get_num_threads() == 2
"""


def test_a_worker_multiplies_as_the_main_thread_does_and_leaves_its_threads_alone():
    env = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", MULTIPLY], env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr
