"""A notebook that does next to nothing, and what tests of sweeps ask about its runs."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil

from saerepgeo_lib.companion.records import read_record

PATIENCE = 900  # seconds; a busy machine takes long, and only a test that fails waits so long

# The record is the library's form, written without its imports, so that a run takes a second.
SOURCE = """# %% [markdown]
# # A stub

# %% tags=["parameters"]
n: int = 0  # which run
x: float = 1  # a level
levels: list[float] = [0, 1]  # a list
name: str = "a"  # a label
seconds: float = 0  # how long it takes
folder: str = ""  # where a line is added to the file `log` when a run starts
fault: str = ""  # what goes wrong: raise, user, late user, die, kill worker, no record, print

# %%
import json
import os
import signal
import time
from pathlib import Path

with open(Path(folder, "log") if folder else os.devnull, "a") as file:
    file.write(f"{n}\\n")

# %%
class UserError(ValueError):
    pass

if fault in ("late user", "no record") or seconds > 9:
    from IPython.display import Markdown, display
    display(Markdown("Something was computed."))

# %%
time.sleep(seconds)
if Path(folder, "mended").exists():
    fault = ""
if fault == "raise":
    raise KeyError("broken on purpose")
if fault in ("user", "late user"):
    raise UserError("unknown preset 'x'; did you mean 'y'?")
if fault == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if fault == "kill worker":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if fault == "print":
    print("#" * 60_000)

# %%
claim = {"id": "stub", "statistic": "n", "value": float(n), "low": None, "high": None, "p": 0.5,
         "n": n, "verdict": "holds", "concept": name, "tokens": "", "autoencoder": "",
         "against": "", "condition": "", "dose": None, "reason": ""}
record = {
    "version": 3, "notebook": "stub", "seeds": [n], "claims": [claim], "numbers": {}, "tables": {},
    "parameters": {"n": n, "x": x, "levels": levels, "name": name},
    "run": {"device": "cpu", "versions": {},
            "stages": {"all": {"seconds": 0.25, "process_peak_mib": 7}}},
}
if fault != "no record":
    Path(os.environ["SAEREPGEO_RECORD"]).write_text(json.dumps(record))
"""


def write_stub(folder):
    """The notebook in `folder`."""
    path = folder / "stub.py"
    path.write_text(SOURCE)
    return path


def toml(value):
    """A value as TOML, which has no null."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def toml_file(content):
    """The text of a TOML file, one line per key."""
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in content.items())


def write_grid(folder, *, runs=None, **grid):
    """A grid file for the stub whose runs note their start in `folder/log`."""
    path = folder / "grid.toml"
    content = {"notebook": str(folder / "stub.py"), "fixed": {"folder": str(folder)},
               "grid": grid}  # fmt: skip
    path.write_text(toml_file(content | ({} if runs is None else {"runs": runs})))
    return path


def starts(folder):
    """How often each run (by its `n`) was started."""
    log = folder / "log"
    return Counter(map(int, log.read_text().split())) if log.exists() else Counter()


def finished(out):
    """The finished runs: `n` -> (folder's inode, time of the record's change), all read whole."""
    runs = {}
    for path in out.glob("[!.]*/*.record.json"):
        n = read_record(path)["parameters"]["n"]
        assert n not in runs
        json.loads(path.with_name("stub.ipynb").read_text())
        runs[n] = path.parent.stat().st_ino, path.stat().st_mtime_ns
    return runs


def hidden(out):
    """What is left in a folder of runs that are not finished."""
    return [path.name for path in out.glob(".*")]


def start(
    *arguments, program=("-m", "saerepgeo_lib.companion.cli"), file_size=resource.RLIM_INFINITY,
    **popen,
):  # fmt: skip
    """`saerepgeo ARGUMENTS` in a process of its own, whose files take at most `file_size` bytes."""

    def prepare():  # a shell's background job ignores Ctrl-C, and so do its children unless told
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "CI": "true"}, preexec_fn=prepare, **popen,
    )  # fmt: skip


def ended(process, *, seconds=PATIENCE):
    """Exit status, standard output and error of a process."""
    out, error = process.communicate(timeout=seconds)
    return process.returncode, out, error


def workers(process):
    """The worker processes of a sweep's driver."""
    try:
        children = psutil.Process(process.pid).children()
        return [c for c in children if "spawn_main" in " ".join(c.cmdline())]
    except psutil.Error:
        return []


def kernels(out):
    """Processes of kernels that work for `out`, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            record = process.environ().get("SAEREPGEO_RECORD", "")
            if record.startswith(f"{out}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition, *, seconds=PATIENCE):
    """The first true value of `condition`, asked until then; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")
