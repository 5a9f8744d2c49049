"""How each outcome is shown: tables for people, or one JSON document with the same facts.

The workflow takes seconds to import (torch), and `boardfit --help` needs none of it: its types are imported for
checking only.
"""

from toolchain.cli.show.delivery import deploy, dry_run, export, run, undo
from toolchain.cli.show.devices import boards, calibrate, doctor, flash
from toolchain.cli.show.finding import infeasible, search
from toolchain.cli.show.loop import correction_text
from toolchain.cli.show.measuring import bench, calibration_text, kind_text, profile

__all__ = [
    "bench",
    "boards",
    "calibrate",
    "calibration_text",
    "correction_text",
    "deploy",
    "doctor",
    "dry_run",
    "export",
    "flash",
    "infeasible",
    "kind_text",
    "profile",
    "run",
    "search",
    "undo",
]
