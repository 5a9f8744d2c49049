"""For all tests: one thread, because tests run side by side, and a user's cache that is nobody's."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which most tests never do
# zig builds its own runtime libraries once per cache, which takes longer than most tests: they share the user's.
_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(_CACHES / "zig"))
# A shell that starts the tests in the background lets them ignore Ctrl-C, and all that they start would inherit that.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The measuring lock, best anchors and deployed models of a test are its own."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return cache
