"""The README cannot drift: its Python is run, its commands and their options exist, its links lead somewhere."""

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", "\n".join(p.read_text(encoding="utf-8") for p in PAGES), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("calibrant "):
                yield line.split("  #")[0].strip()


def test_python_examples_run():
    examples = "\n".join(re.findall(r"```pycon\n(.*?)```", TEXT, re.S))
    test = doctest.DocTestParser().get_doctest(examples, {}, "README.md", "README.md", 0)
    assert test.examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


def test_python_blocks_that_need_a_model_compile_and_name_only_what_exists():
    import calibrant

    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for name in re.findall(r"calibrant\.([a-z_]+)\(", block):
            assert name in calibrant.__all__


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_in_the_documents_exist_with_their_options(line):
    words = shlex.split(line)
    shown = subprocess.run(
        [sys.executable, "-c", "from calibrant.cli import main; main()", words[1], "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "NO_COLOR": "1"},
    ).stdout
    for word in words[2:]:
        if word.startswith("--"):
            assert word.partition("=")[0] in shown, f"{words[1]} has no {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_inside_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_main_example_runs_on_a_tiny_model(tmp_path, monkeypatch, model_folder, make_questions, capsys):
    """As it stands, but for the model's name."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "calibrant.restore(" in b]
    assert '"owner/aligned-model"' in block
    make_questions("all", 60).save(tmp_path / "questions.jsonl")
    monkeypatch.chdir(tmp_path)
    exec(block.replace('"owner/aligned-model"', repr(str(model_folder()))), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(Path("run") / "report" / "index.html")
    assert (tmp_path / printed[-1]).stat().st_size > 10_000
