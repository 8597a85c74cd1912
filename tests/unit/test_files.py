"""Files appear whole or not at all, and a folder belongs to one run."""

import os
import stat

import pytest

from calibrant.errors import CalibrantError, ConfigError, OutputError
from calibrant.files import claim_folder, refuse_unwritable, write_atomically, write_json


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "a", "old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_where_a_folder_is_needed_is_an_output_error(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(OutputError, match="to do:"):
        write_atomically(tmp_path / "a" / "b", "y")


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_folder_goes_on_with_the_same_run_only(tmp_path):
    claim_folder(tmp_path / "run", {"seed": 0, "names": ("a",)}, "run")
    claim_folder(tmp_path / "run", {"seed": 0, "names": ("a",)}, "run")
    with pytest.raises(ConfigError, match="different seed"):
        claim_folder(tmp_path / "run", {"seed": 1, "names": ("a",)}, "run")


def test_a_folder_of_other_things_is_not_taken(tmp_path):
    (tmp_path / "photo").write_text("x")
    with pytest.raises(ConfigError, match="not a run"):
        claim_folder(tmp_path, {"seed": 0}, "run")


def test_errors_have_three_parts_and_are_caught_as_one_kind():
    error = ConfigError(asked="a", found="b", todo="c")
    assert str(error) == "asked: a\nfound: b\nto do: c"
    assert isinstance(error, CalibrantError)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("content", ["junk", "[]", None])
def test_a_run_file_of_another_tool_is_no_run(tmp_path, content):
    if content is None:
        (tmp_path / "run.json").mkdir()
    else:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigError, match=r"its run\.json holds none of ours"):
        claim_folder(tmp_path, {"seed": 0}, "run")


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    refuse_unwritable(tmp_path / "new" / "deep" / "scores")
    refuse_unwritable(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    faults = {
        tmp_path: "a folder of that name",
        tmp_path / "file" / "x": "is not a folder",
        tmp_path / "pipe": "a pipe",
    }
    for place, fault in faults.items():
        with pytest.raises(OutputError, match=fault):
            refuse_unwritable(place)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OutputError, match="would be lost"):
        refuse_unwritable(tmp_path / "link", inputs=(None, tmp_path / "nowhere", tmp_path / "file"))


def test_a_device_or_pipe_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="a device or a pipe"):
        write_atomically(tmp_path / "pipe", "text")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_one_and_a_file_keeps_its_permissions(tmp_path):
    kept, link = tmp_path / "store" / "kept", tmp_path / "link"
    write_atomically(kept, "old")
    kept.chmod(0o600)
    link.symlink_to(kept)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == ("new", 0o600)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["kept", "link", "store"]
