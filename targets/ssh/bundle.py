"""Packs the agent: one Python file (a zip that Python runs), the same bytes for the same sources."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from importlib.resources import files
from typing import Final

# The agent's modules. A test runs the packed file alone, so a missing one is noticed.
_MODULES: Final = (
    "targets/__init__.py", "targets/deploy.py", "targets/host.py", "targets/lock.py", "targets/session.py",
    "targets/timing.py", "targets/runners/__init__.py", "targets/runners/common.py", "targets/runners/litert.py",
    "targets/runners/onnx_runtime.py", "targets/runners/tflm.py", "targets/runners/torch_aten.py",
    "targets/ssh/__init__.py", "targets/ssh/agent.py", "targets/ssh/frames.py", "targets/ssh/health.py",
    "toolchain/__init__.py", "toolchain/errors.py", "toolchain/files.py", "toolchain/measurement.py",
)  # fmt: skip
# Old Pythons parse this before anything else, so that they can say that they are old.
_MAIN: Final = """\
import sys

if sys.version_info < (3, 11):
    sys.stderr.write("boardfit-agent: needs Python 3.11, this is %s\\n" % sys.version.split()[0])
    sys.exit(65)
try:
    import numpy
except ImportError:
    sys.stderr.write("boardfit-agent: needs numpy and an engine; %s has no numpy\\n" % sys.executable)
    sys.exit(66)
from targets.ssh.agent import main

sys.exit(main())
"""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@cache
def agent_file() -> bytes:
    """The agent as one file, to be started with `python3 FILE`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(("__main__.py", *_MODULES)):
            package, _, rest = name.partition("/")
            data = _MAIN.encode() if not rest else files(package).joinpath(rest).read_bytes()
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def agent_name() -> str:
    """Its file name on a device: holds the version, which is a hash of the file."""
    return f"agent-{hashlib.sha256(agent_file()).hexdigest()[:16]}.pyz"
