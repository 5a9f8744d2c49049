from __future__ import annotations

import pytest

from toolchain.search.exact import native


@pytest.fixture(params=["c", "python"])
def engine(request: pytest.FixtureRequest) -> str:
    """Both engines; the compiled one only where something compiles."""
    if request.param == "c" and native.library() is None:
        pytest.skip("no C compiler here: only the NumPy path runs")
    return str(request.param)
