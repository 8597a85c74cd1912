"""The command in processes of their own, whose imports are paid once: a server that has made them forks for each call.

The child runs what the installed script runs, with its own arguments, folder, environment and output, and ends as any Python
process does. ``COMMAND`` is the installed script itself, for what a fork cannot show.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from itertools import count
from pathlib import Path

from calibrant.cli import main

COMMAND = Path(sys.executable).with_name("calibrant")
PROXIES = {name for name in os.environ if name.lower().endswith("_proxy")}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in PROXIES} | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "100",
}
IMPORTED = (
    *("calibrant.scoring", "calibrant.tuning", "calibrant.alignment", "calibrant.exporting", "calibrant.ladder"),
    *("calibrant.reporting.plots", "transformers.models.llama.modeling_llama", "transformers.trainer", "datasets"),
)
PATIENCE = 300.0


def start(*args, cwd, script=None):
    """The command under way, or a script of the project."""
    return Call([str(arg) for arg in args], str(cwd), None if script is None else str(script))


def finish(call, code=0):
    """What it wrote to stdout and to stderr, once it has ended with this code."""
    out, err = call.communicate()
    assert call.returncode == code, f"{call.returncode}\n{out}\n{err}"
    assert "Traceback" not in out + err
    return out, err


def run(*args, cwd, code=0, script=None):
    """Both in one."""
    return finish(start(*args, cwd=cwd, script=script), code)


class Call:
    """A process that the server forked, with what :class:`subprocess.Popen` has."""

    def __init__(self, argv, cwd, script):
        place = _place() / str(next(NUMBERS))
        self.files = [f"{place}.out", f"{place}.err"]
        self.returncode = None
        self.pid = _ask({"argv": argv, "cwd": cwd, "script": script, "files": self.files})

    def poll(self):
        if self.returncode is None:
            self.returncode = _ask({"pid": self.pid})
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.files[0], timeout)
            time.sleep(0.01)
        return [Path(file).read_text(encoding="utf-8") for file in self.files]


NUMBERS = count()


@cache
def _place():
    kept = tempfile.TemporaryDirectory()
    atexit.register(kept.cleanup)
    return Path(kept.name)


@cache
def _server():
    asked = [sys.executable, __file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(asked, env=ENVIRONMENT, text=True, start_new_session=True, **pipes)
    atexit.register(server.communicate)  # closes what it reads, and so ends it
    return server


def _ask(what):
    server = _server()
    print(json.dumps(what), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


def serve():
    """Import, then fork for each line that asks for a call, and say how it ended to each that asks that."""
    os.environ |= {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    for name in IMPORTED:
        __import__(name)
    answers = os.fdopen(os.dup(1), "w")
    gc.collect()
    gc.freeze()  # what is there by now is not looked at again: else each child would copy it all
    for line in sys.stdin:
        asked = json.loads(line)
        if "pid" in asked:
            pid, status = os.waitpid(asked["pid"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), file=answers, flush=True)
            continue
        pid = os.fork()
        if not pid:
            os._exit(ended(**asked))
        print(pid, file=answers, flush=True)


def ended(**asked):
    """The code with which the command ends; what Python does at an exit is done, but for taking its modules apart."""
    code = 0
    try:
        become(**asked)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def become(argv, cwd, script, files):
    """This process is the command from now on."""
    for number, name in ((0, os.devnull), *enumerate(files, 1)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.chdir(cwd)
    sys.argv = [script or str(COMMAND), *argv]
    if script is None:
        main()
    else:
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    serve()
