"""For all tests: one thread, because tests run side by side, and a user's cache that is nobody's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which most tests never do
# zig builds its own runtime libraries once per cache, which takes longer than most tests: they share the user's.
_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(_CACHES / "zig"))


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The measuring lock, best anchors and deployed models of a test are its own."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return cache
