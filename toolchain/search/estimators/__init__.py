"""Accuracy estimators: measured contributions, learned predictors, and how well they rank (BINAS, 3.2 and 5.2).

NumPy only, but for `paths` (running sub-networks) and `mlp`, which import torch and are imported by name.
"""

from toolchain.search.estimators.additive import AdditiveEstimator, Estimator
from toolchain.search.estimators.contributions import (
    StageContributions,
    choice_contributions,
    conditioned_contributions,
    paper_conditions,
    stage_contributions,
)
from toolchain.search.estimators.encoding import Encoding
from toolchain.search.estimators.learned import KernelRidge, fit_estimator, fit_ridge
from toolchain.search.estimators.ranking import Ranking, kendall_tau, rank_quality, spearman_rho

__all__ = [
    "AdditiveEstimator",
    "Encoding",
    "Estimator",
    "KernelRidge",
    "Ranking",
    "StageContributions",
    "choice_contributions",
    "conditioned_contributions",
    "fit_estimator",
    "fit_ridge",
    "kendall_tau",
    "paper_conditions",
    "rank_quality",
    "spearman_rho",
    "stage_contributions",
]
