"""Accuracy estimators: measured contributions, learned predictors, and how well they rank (BINAS, 3.2 and 5.2)."""

from toolchain.search.estimators.additive import AdditiveEstimator, Estimator
from toolchain.search.estimators.ranking import Ranking, kendall_tau, rank_quality, spearman_rho

__all__ = ["AdditiveEstimator", "Estimator", "Ranking", "kendall_tau", "rank_quality", "spearman_rho"]
