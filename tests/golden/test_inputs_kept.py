"""No command overwrites what it reads, or something else by mistake, or drops a value that was given."""

import pytest

from calibrant import Scores
from command import run


@pytest.fixture
def folder(tmp_path):
    for name, start in (("test.scores", 0), ("fit.scores", 50)):
        ids = [f"q{start + i}" for i in range(50)]
        Scores.from_probs([[0.9, 0.1]] * 50, [0] * 30 + [1] * 20, ids=ids).save(tmp_path / name)
    (tmp_path / "table.csv").write_text("p_0,p_1,answer\n.9,.1,0\n.6,.4,1\n")
    (tmp_path / "letter.txt").write_text("dear all")
    (tmp_path / "link").symlink_to(tmp_path / "fit.scores")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("rescale", "test.scores", "--fit-on", "fit.scores", "--out", "fit.scores"), "it is what this reads"),
        (("rescale", "test.scores", "--fit-on", "fit.scores", "--out", "link"), "it is what this reads"),
        (("rescale", "test.scores", "--fit-on", "fit.scores", "--out", "test.scores"), "it is what this reads"),
        (("score", "--from-table", "table.csv", "--out", "table.csv"), "it is what this reads"),
        (("score", "--from-table", "table.csv", "--out", "letter.txt"), "a file that holds no scores"),
        (("score", "--from-table", "table.csv", "--out", "-"), "they are a binary file"),
        (("score", "nowhere", "--questions", "table.csv", "--out", "table.csv"), "it is what this reads"),
        (("report", "--before", "test.scores", "--out", "site"), "it holds index.html"),
        (("measure", "test.scores", "--by", "a", "--by", "b"), "only the last value would count"),
        (("rescale", "test.scores", "--fit-on", "a", "--fit", "b", "--out", "c"), "only the last value would count"),
    ],
)
def test_what_would_be_lost_is_refused_and_kept(folder, arguments, found):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out, err = run(*arguments, cwd=folder, code=2)
    assert out == ""
    assert [line.partition(":")[0] for line in err.splitlines()] == ["asked", "found", "to do"]
    assert found in err.splitlines()[1]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (folder / "link").is_symlink()


def test_scores_are_made_again_in_their_place_and_options_that_may_be_are_given_again(folder):
    for _ in range(2):
        run("score", "--from-table", "table.csv", "--out", "again.scores", cwd=folder)
        run("report", "--before", "test.scores", "--before", "fit.scores", "--out", "page", cwd=folder)
    assert Scores.load(folder / "again.scores").n == 2
