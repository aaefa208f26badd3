"""What several tests of data need."""

import pytest


@pytest.fixture
def at_home(monkeypatch, tmp_path):
    """A folder of one's own to work in, with an empty cache."""
    monkeypatch.delenv("XPMLP_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
