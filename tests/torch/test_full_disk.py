"""A disk that is full: an error in three parts, no half artefact, and a run that goes on once there is space."""

import resource
from contextlib import contextmanager

import pytest

from calibrant.errors import OutputError
from calibrant.scoring import score
from calibrant.tuning import LoraSettings, TuneConfig, tune


@pytest.fixture(scope="module")
def sets(make_questions):
    return make_questions("train", 16, ks=(4, 2)), make_questions("calibration", 12)


def go(folder, model, sets):
    config = TuneConfig(epochs=1, batch_size=8, keep="last", lora=LoraSettings(rank=4, alpha=8))
    return tune(model, *sets, out=folder, config=config, device="cpu")


@contextmanager
def files_no_longer_than(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [2_000, 12_000, 40_000])
def test_full_disk_is_an_error_without_a_half_artefact_and_the_run_goes_on_later(tmp_path, model_folder, sets, limit):
    """A file system that takes no file longer than some limit fails at different places of the same run."""
    model = model_folder()
    with pytest.raises(OutputError) as raised, files_no_longer_than(limit):
        go(tmp_path / "run", model, sets)
    assert "free space" in raised.value.todo
    assert not (tmp_path / "run" / "adapter").exists()
    assert not (tmp_path / "run" / "result.json").exists()
    resumed, whole = (go(tmp_path / name, model, sets) for name in ("run", "other"))
    files = [(result.adapter / "adapter_model.safetensors").read_bytes() for result in (resumed, whole)]
    assert files[0] == files[1]


def test_scores_on_a_full_disk_leave_nothing(tmp_path, model_folder, sets):
    scores = score(model_folder(), sets[1], device="cpu")
    with pytest.raises(OutputError), files_no_longer_than(500):
        scores.save(tmp_path / "s.safetensors")
    assert list(tmp_path.iterdir()) == []
