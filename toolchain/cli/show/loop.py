"""How the rounds of the loop are shown: what was predicted, what was measured, and what the cost model learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profilers.correct import Correction


def correction_text(found: Correction) -> str:
    """What a correction does, and what it rests on."""
    return (
        f"x {found.factor:.4f} (before x {found.before:.4f}) from {len(found.networks)} networks near the optimum, "
        f"round {found.round}: mean error {found.error_before_percent:.2f} % -> {found.error_after_percent:.2f} %"
    )
