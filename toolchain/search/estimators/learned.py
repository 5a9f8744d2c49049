"""Accuracy predictors that are fitted to measured networks: linear, bilinear, quadratic, and an MLP (BINAS, 5.2).

The least-squares predictors (equations 10 to 12) are ridge regressions in their dual form: products of alpha and
beta are never written out. The inner product of two architectures' features is a polynomial of <alpha, alpha'> and
<beta, beta'>, so n networks need one n x n matrix, whatever the number of products (33,930 for the paper's space).
Its eigenvalues give every leave-one-out error in closed form, and with it the ridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.search.estimators.additive import AdditiveEstimator, Estimator, index_table
from toolchain.search.estimators.encoding import Encoding
from toolchain.search.protocols import Architecture, Floats, Ints

Form: TypeAlias = Literal["linear", "bilinear", "quadratic"]
Kind: TypeAlias = Literal["linear", "bilinear", "quadratic", "mlp"]

_RIDGES: Final = np.logspace(-6, 3, 28)
_FLOOR: Final = 1e-12


@dataclass(frozen=True, slots=True)
class KernelRidge:
    """A fitted linear, bilinear or quadratic predictor: mean + kernel(a, training networks) @ weights.

    Attributes:
        form: `linear`: alpha and beta; `bilinear`: and all products of an alpha with a beta (equation 11);
            `quadratic`: and all products within alpha and within beta (equation 12).
        encoding: how architectures become alpha and beta.
        mean: mean of the training accuracies.
        alpha, beta: (n, A) and (n, B) of the training networks.
        weights: (n,) dual weights.
        ridge: the regularisation taken, relative to the kernel's mean diagonal.
        loo_mse: mean squared leave-one-out error of the training networks at that ridge.
    """

    form: Form
    encoding: Encoding
    mean: float
    alpha: Floats
    beta: Floats
    weights: Floats
    ridge: float
    loo_mse: float

    def predict(self, architectures: Ints | Sequence[Architecture]) -> Floats:
        """(n, choices) candidate indices -> (n,) accuracies, in the unit of the training accuracies."""
        alpha, beta = self.encoding.encode(architectures)
        if self.form == "linear":  # few features, and perhaps many networks
            return self.mean + alpha @ (self.alpha.T @ self.weights) + beta @ (self.beta.T @ self.weights)
        kernel = _kernel(self.form, alpha, beta, self.alpha, self.beta)
        return self.mean + kernel @ self.weights

    def additive(self) -> AdditiveEstimator:
        """A linear predictor as values per candidate, for exact selection.

        Raises:
            ConfigurationError: the form has products, which no sum over choices can give.
        """
        if self.form != "linear":
            raise ConfigurationError(
                f"a {self.form} predictor is not a sum over choices", remedy='fit form "linear"'
            )
        alpha_weights, beta_weights = self.alpha.T @ self.weights, self.beta.T @ self.weights
        base = self.mean
        kept = list(self.encoding.sizes)
        steps: dict[int, float] = {}
        at = 0
        for stage in self.encoding.stages:
            deltas = beta_weights[at : at + stage.depth - stage.least + 1]
            at += len(deltas)
            base += float(deltas[-1])
            for block in range(stage.depth):
                kept[stage.first + block] = stage.none
                if block >= stage.least:
                    shorter = block - stage.least
                    steps[stage.first + block] = float(deltas[shorter] - deltas[shorter + 1])
        values = []
        at = 0
        for choice, size in enumerate(kept):
            own = alpha_weights[at : at + size]
            at += size
            values.append(np.append(own, steps[choice]) if choice in steps else own.copy())
        return AdditiveEstimator(base, tuple(values))


def fit_ridge(
    architectures: Ints | Sequence[Architecture],
    accuracies: Sequence[float] | Floats,
    encoding: Encoding,
    form: Form = "linear",
    ridges: Sequence[float] | Floats = _RIDGES,
) -> KernelRidge:
    """Regularised least squares in closed form (BINAS, equations 10 to 12 and section 5.2.1).

    With products O(n^3) time and O(n^2) memory in the number of networks n, whatever the number of products; linear in
    n without.

    Args:
        architectures: (n, choices) candidate indices.
        accuracies: (n,) measured, any unit.
        encoding: of the space.
        form: which products are features, see `KernelRidge`.
        ridges: regularisations to choose from by leave-one-out error, relative to the kernel's mean diagonal.

    Raises:
        ConfigurationError: fewer than two networks, lengths that differ, accuracies that are not finite, no ridges.
    """
    if form not in get_args(Form):
        raise ConfigurationError(f"unknown form {form!r}", remedy="use one of " + ", ".join(get_args(Form)))
    table, y = checked_pairs(architectures, accuracies, encoding)
    if len(ridges) == 0 or min(ridges) <= 0:
        raise ConfigurationError("ridges must be positive, and one at least must be given")
    alpha, beta = encoding.encode(table)
    eigenvalues, vectors, scale = _spectrum(form, alpha, beta)
    target = y - y.mean()
    projected, squares = vectors.T @ target, vectors**2
    best: tuple[float, float] | None = None
    for ridge in ridges:
        shrink = eigenvalues / (eigenvalues + ridge * scale)
        leverage = squares @ shrink + 1.0 / len(y)
        residual = (target - vectors @ (shrink * projected)) / np.maximum(1.0 - leverage, _FLOOR)
        error = float(np.mean(residual**2))
        if best is None or error < best[0]:
            best = (error, float(ridge))
    assert best is not None
    error, ridge = best
    # Parts of the target that no feature reaches are left out: they would change no prediction.
    weights = vectors @ (projected / (eigenvalues + ridge * scale))
    weights -= weights.mean()
    found = KernelRidge(form, encoding, 0.0, alpha, beta, weights, ridge, error)
    # predict() uses the kernel as it is, so the centre of its rows goes into the mean.
    return replace(found, mean=float(y.mean() - found.predict(table).mean()))


def fit_estimator(
    kind: Kind,
    architectures: Ints | Sequence[Architecture],
    accuracies: Sequence[float] | Floats,
    encoding: Encoding,
    seed: int = 0,
) -> Estimator:
    """One door to all learned predictors; `seed` matters for the MLP alone.

    Raises:
        ConfigurationError: see `fit_ridge`, `fit_mlp`.
    """
    if kind == "mlp":
        from toolchain.search.estimators.mlp import fit_mlp  # torch only where it is asked for

        return fit_mlp(architectures, accuracies, encoding, seed=seed)
    return fit_ridge(architectures, accuracies, encoding, kind)


def _spectrum(form: Form, alpha: Floats, beta: Floats) -> tuple[Floats, Floats, float]:
    """Eigenvalues and eigenvectors (n, rank) of the centred kernel, and the mean diagonal of the kernel itself.

    The mean is a feature without regularisation, so the kernel works on what is centred. A linear one has at most
    as many features as candidates: their singular values do, and n may be large.
    """
    if form == "linear":
        features = np.concatenate([alpha, beta], axis=1)
        vectors, singular, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
        return singular**2, vectors, max(float(np.mean((features**2).sum(1))), _FLOOR)
    kernel = _kernel(form, alpha, beta, alpha, beta)
    scale = max(float(np.trace(kernel)) / len(kernel), _FLOOR)
    rows = kernel.mean(0)
    eigenvalues, vectors = np.linalg.eigh(kernel - rows - rows[:, None] + rows.mean())
    return np.maximum(eigenvalues, 0.0), vectors, scale


def _kernel(form: Form, alpha: Floats, beta: Floats, other_alpha: Floats, other_beta: Floats) -> Floats:
    """Inner products of the features of two lists of architectures; squares of 0/1 features count as products."""
    a, b = alpha @ other_alpha.T, beta @ other_beta.T
    result = a + b
    if form in ("bilinear", "quadratic"):
        result = result + a * b
    if form == "quadratic":
        result = result + (a * a + b * b) / 2
    return np.asarray(result, dtype=np.float64)


def checked_pairs(
    architectures: Ints | Sequence[Architecture], accuracies: Sequence[float] | Floats, encoding: Encoding
) -> tuple[Ints, Floats]:
    """Architectures as a checked table, accuracies as float64.

    Raises:
        ConfigurationError: see `fit_ridge`.
    """
    table, y = index_table(architectures, encoding.sizes), np.asarray(accuracies, dtype=np.float64)
    if y.shape != (len(table),) or len(y) < 2:
        raise ConfigurationError(
            f"{len(table)} architectures and accuracies of shape {y.shape}: two or more pairs are needed"
        )
    if not np.isfinite(y).all():
        raise ConfigurationError("an accuracy is not finite")
    return table, y
