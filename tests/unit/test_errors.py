"""What becomes of errors that are not ours."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from calibrant import cli
from calibrant.errors import ModelError, memory_full

ROOT = Path(__file__).parents[2]

GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB\nProcess 1 has 70 GiB"


def test_full_memory_is_told_in_three_parts_by_its_first_line():
    error = memory_full(RuntimeError(GPU), "tuning")
    assert isinstance(error, ModelError)
    assert (error.asked, error.found) == ("tuning", f"memory is full ({GPU.splitlines()[0]})")
    cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried")
    assert memory_full(cpu, "tuning") is not None
    assert memory_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "tuning") is None
    assert memory_full(ValueError(GPU), "tuning") is None


def test_torch_says_what_is_looked_for():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert memory_full(raised.value, "this") is not None
    assert issubclass(torch.OutOfMemoryError, RuntimeError)


def test_command_ends_with_three_lines_and_code_2_where_memory_is_full(monkeypatch, capsys):
    def full():
        raise RuntimeError(GPU)

    monkeypatch.setattr(cli, "app", full)
    monkeypatch.setattr("sys.argv", ["calibrant", "score", "model"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "asked: calibrant score"
    assert said[1].startswith("found: memory is full (CUDA out of memory.")
    assert said[2].startswith("to do: lower micro_batch_size or batch_tokens")

    def broken():
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(RuntimeError, match="fault"):
        cli.main()


def test_what_a_missing_package_asks_for_is_what_the_extra_holds():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra, file in (("api", "endpoint.py"), ("quant", "scoring/precision.py"), ("demo", "demo/facts.py")):
        code = (ROOT / "src" / "calibrant" / file).read_text(encoding="utf-8")
        (asked,) = re.findall(r"todo=\"(?:run: )?pip install (.*?)\"", code)
        assert shlex.split(asked) == extras[extra]
