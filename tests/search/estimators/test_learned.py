"""Closed-form predictors against explicit features, and what each form can and cannot express."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from toolchain.errors import ConfigurationError
from toolchain.search.estimators import Encoding, fit_estimator, fit_ridge, rank_quality
from toolchain.spaces import Mobilenet


@pytest.fixture(scope="module")
def space() -> Mobilenet:
    return Mobilenet(input_shape=(1, 8, 8), widths=(4, 6), depth=3, expansions=(3, 6), kernels=(3,))


@pytest.fixture(scope="module")
def encoding(space) -> Encoding:
    return Encoding(tuple(len(choice.candidates) for choice in space.choices), space.stages)


def drawn(space, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([space.sample_by_depth(rng) for _ in range(n)])


def test_encoding_is_equation_2(space, encoding):
    architecture = space.from_blocks([["e3k3se"], ["e3k3", "e6k3"]])
    alpha, beta = encoding.encode([architecture])
    assert alpha.shape == (1, 6 * 4)
    assert np.flatnonzero(alpha).tolist() == [1, 12, 12 + 4 + 2]
    assert beta.tolist() == [[1, 0, 0, 0, 1, 0]]
    plain_alpha, plain_beta = Encoding(encoding.sizes).encode([architecture])
    assert plain_alpha.shape == (1, sum(encoding.sizes))
    assert plain_alpha.sum() == 6
    assert plain_beta.shape == (1, 0)


def features(form, alpha, beta):
    """Explicit features whose inner product the kernel is."""
    rows = [alpha, beta]
    if form != "linear":
        rows.append((alpha[:, :, None] * beta[:, None, :]).reshape(len(alpha), -1))
    if form == "quadratic":
        for part in (alpha, beta):
            n = part.shape[1]
            pairs = [part[:, i] * part[:, j] for i, j in itertools.combinations(range(n), 2)]
            rows += [np.stack(pairs, 1), part / np.sqrt(2)]
    return np.concatenate(rows, 1)


@pytest.mark.parametrize("form", ["linear", "bilinear", "quadratic"])
def test_dual_form_is_ridge_regression_on_explicit_features(space, encoding, form):
    table, tested = drawn(space, 40), drawn(space, 20, 1)
    y = np.random.default_rng(2).normal(size=40)
    found = fit_ridge(table, y, encoding, form, ridges=[0.1])
    x, x_tested = features(form, *encoding.encode(table)), features(form, *encoding.encode(tested))
    scale = np.mean((x**2).sum(1))
    centre = x.mean(0)
    gram = (x - centre).T @ (x - centre) + 0.1 * scale * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - centre).T @ (y - y.mean()))
    np.testing.assert_allclose(found.predict(tested), y.mean() + (x_tested - centre) @ weights, atol=1e-8)
    left_out = []
    for i in range(40):  # leave-one-out by hand, at the same absolute ridge
        keep = np.arange(40) != i
        middle = x[keep].mean(0)
        gram = (x[keep] - middle).T @ (x[keep] - middle) + 0.1 * scale * np.eye(x.shape[1])
        w = np.linalg.solve(gram, (x[keep] - middle).T @ (y[keep] - y[keep].mean()))
        left_out.append(y[i] - y[keep].mean() - (x[i] - middle) @ w)
    assert found.loo_mse == pytest.approx(np.mean(np.square(left_out)), rel=1e-6)


def test_ridge_is_the_one_of_least_leave_one_out_error(space, encoding):
    table = drawn(space, 60)
    y = np.random.default_rng(3).normal(size=60)
    ridges = [1e-3, 1e-1, 10.0]
    errors = {r: fit_ridge(table, y, encoding, ridges=[r]).loo_mse for r in ridges}
    assert fit_ridge(table, y, encoding, ridges=ridges).ridge == min(errors, key=lambda r: errors[r])


def test_forms_express_what_they_should(space, encoding):
    table, tested = drawn(space, 500), drawn(space, 200, 1)
    rng = np.random.default_rng(4)

    def target(form, alpha, beta):
        x = features(form, alpha, beta)
        return x @ weights[: x.shape[1]] / 10

    weights = rng.normal(size=features("quadratic", *encoding.encode(table)).shape[1])
    y = target("quadratic", *encoding.encode(table))
    y_tested = target("quadratic", *encoding.encode(tested))
    mse = {
        form: rank_quality(fit_ridge(table, y, encoding, form).predict(tested), y_tested).mse
        for form in ("linear", "bilinear", "quadratic")
    }
    assert mse["quadratic"] < 0.5 * mse["linear"]
    y = target("linear", *encoding.encode(table))
    exact = fit_ridge(table, y, encoding, "linear")
    np.testing.assert_allclose(exact.predict(tested), target("linear", *encoding.encode(tested)), atol=1e-4)


def test_linear_predictor_is_an_additive_estimator(space, encoding):
    table, tested = drawn(space, 80), drawn(space, 30, 1)
    y = np.random.default_rng(5).normal(size=80)
    for used in (encoding, Encoding(encoding.sizes)):
        found = fit_ridge(table, y, used)
        np.testing.assert_allclose(found.additive().predict(tested), found.predict(tested), atol=1e-9)
    with pytest.raises(ConfigurationError, match="not a sum"):
        fit_ridge(table, y, encoding, "quadratic").additive()


@pytest.mark.parametrize("kind", ["linear", "bilinear", "quadratic", "mlp"])
def test_all_rank_a_simple_truth(space, encoding, kind):
    table, tested = drawn(space, 300), drawn(space, 100, 1)
    weights = np.random.default_rng(6).normal(size=(len(encoding.sizes), 8))

    def truth(rows):
        return 0.7 + 0.01 * weights[np.arange(len(encoding.sizes)), rows].sum(1)

    predicted = fit_estimator(kind, table, truth(table), encoding).predict(tested)
    quality = rank_quality(predicted, truth(tested))
    assert quality.kendall > 0.8
    assert quality.mse < 2e-4
    again = fit_estimator(kind, table, truth(table), encoding).predict(tested)
    np.testing.assert_array_equal(predicted, again)


def test_broken_data_is_refused(space, encoding):
    table = drawn(space, 4)
    for rows, y in ((table, [1.0] * 3), (table[:1], [1.0]), (table, [1, 2, 3, np.nan])):
        with pytest.raises(ConfigurationError):
            fit_ridge(rows, y, encoding)
    with pytest.raises(ConfigurationError, match="ridges"):
        fit_ridge(table, [1, 2, 3, 4], encoding, ridges=[0.0])
    with pytest.raises(ConfigurationError, match="unknown form"):
        fit_ridge(table, [1, 2, 3, 4], encoding, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="3 are needed"):
        fit_estimator("mlp", table[:2], [1, 2], encoding)
    same = fit_ridge(table, [0.5] * 4, encoding)
    np.testing.assert_allclose(same.predict(table), 0.5)
