import resource
import subprocess
import sys
from pathlib import Path

import pytest

from saerepgeo_lib import files
from saerepgeo_lib.files import atomic_folder, atomic_path, read_json, sha256_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_is_a_user_error(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from saerepgeo_lib.files import write_text\n"
        "from saerepgeo_lib.errors import UserError\n"
        "try: write_text(pathlib.Path(sys.argv[1]), 'x' * 100_000)\n"
        "except UserError as e: sys.exit(f'told: {e}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.txt")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert "told: cannot write" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 1.5})


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
    assert folder.stat().st_mode & 0o077 == (0o777 & ~files._umask()) & 0o077


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_folder_stays_as_it_was_when_the_new_one_fails(tmp_path, error):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "x").write_text("old")
    with pytest.raises(error), atomic_folder(folder) as new:
        (new / "x").write_text("half")
        raise error
    assert held(folder) == {"x": "old"} and list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_a_crash_left_aside_comes_back(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "x").write_text("old")
    folder.rename(tmp_path / ".kept.old")  # cut off between both moves
    with pytest.raises(RuntimeError), atomic_folder(folder):
        raise RuntimeError
    assert held(folder) == {"x": "old"} and list(tmp_path.iterdir()) == [folder]
    real = Path.rename

    def fails(self, target):
        if target == folder and not self.name.endswith(".old"):
            raise OSError("disk full")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="disk full"), atomic_folder(folder):
        pass
    assert held(folder) == {"x": "old"} and list(tmp_path.iterdir()) == [folder]
