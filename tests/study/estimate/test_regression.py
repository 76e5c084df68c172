"""The regression on synthetic clusters with known coefficients."""

import numpy as np
import pytest

from study.cluster_config import ClusterConfig
from study.estimate.performance import UNSEEN
from study.estimate.priors import step_priors
from study.estimate.regression import Points, Prior, Regression, _candidates, _similarity
from study.estimate.terms import COORDINATES, DataSheet, position, stack, step_terms
from study.workload import Workload

SHEET = DataSheet(1e15, 4e12, 4e11, 5e10, known=True)

PRIORS = [Prior(1.0, 2.7)] * 11


def make_work(dim: int, gpus: int, batch_size: int = 8) -> Workload:
    layers = max(4, dim // 64)
    params = 12 * layers * dim**2
    return Workload(
        params=params,
        matmul_params=params,
        n_layers=layers,
        dim=dim,
        attention_dim=dim,
        vocab_size=258,
        seq_len=2048,
        batch_size=batch_size,
        grad_acc_steps=1,
        gpus=gpus,
        gpus_per_node=8,
    )


def points(works: list[Workload]) -> Points:
    terms = stack([step_terms(work, SHEET) for work in works], 11)
    return Points(
        terms,
        np.array([position(work) for work in works]).reshape(len(works), len(COORDINATES)),
        ["base"] * len(works),
    )


GRID = [make_work(dim, gpus) for dim in (256, 512, 768, 1024, 2048) for gpus in (1, 2, 4, 8, 16)]


def test_unseen_cells_of_200_random_clusters() -> None:
    """Known coefficients and 5% noise: errors within 8%; 80% intervals contain 70 to 90%."""
    random = np.random.default_rng(0)
    everything = points(GRID)
    errors, inside = [], []
    for _ in range(200):
        coefficients = np.exp(random.normal(0.0, 0.7, 11))
        times = everything.terms @ coefficients * np.exp(random.normal(0.0, 0.05, len(GRID)))
        order = random.permutation(len(GRID))
        known, unseen = order[:12], order[12:]
        fit = Regression(PRIORS, points([GRID[i] for i in known]), times[known], 3.0)
        mean, sd = fit.predict(points([GRID[i] for i in unseen]))
        off = np.log(times[unseen]) - mean
        errors.append(np.median(np.abs(np.expm1(-off))))
        inside.append(np.mean(np.abs(off) < 1.2816 * sd))
    assert np.median(errors) < 0.08
    assert 0.7 < np.mean(inside) < 0.9


@pytest.mark.parametrize("measured", [1, 2, 3])
def test_few_measured_cells_of_random_clusters(measured: int) -> None:
    """Coefficients, and a factor on all of them, drawn from their priors; 5% noise."""
    random = np.random.default_rng(measured)
    priors = step_priors(ClusterConfig(gpu_name="X", peak_tflops=500.0, gpus_per_node=8))
    center, widths = (np.log([getattr(p, name) for p in priors]) for name in ("median", "factor"))
    everything = points(GRID)
    inside = []
    for _ in range(200):
        truth = Regression(priors, points([]), np.array([]))
        _, log_f = truth._linearise(everything, random.normal(center, widths))
        log_f += random.normal(0.0, np.log(UNSEEN)) + random.normal(0.0, 0.05, len(GRID))
        order = random.permutation(len(GRID))
        known, unseen = order[:measured], order[measured:]
        times = np.exp(log_f[known])
        fit = Regression(priors, points([GRID[i] for i in known]), times, UNSEEN)
        mean, sd = fit.predict(points([GRID[i] for i in unseen]))
        inside.append(np.mean(np.abs(log_f[unseen] - mean) < 1.2816 * sd))
    assert 0.75 < np.mean(inside) < 0.9


def test_groups_of_terms_run_at_the_same_time() -> None:
    """4 s beside 3 s, p = 4: (4^4 + 3^4)^(1/4), and the derivatives of its logarithm."""
    nothing = Points(np.zeros((0, 3)), np.zeros((0, 1)), [])
    priors = [Prior(1.0, 2.0), Prior(1.0, 2.0), Prior(1.0, 2.0, group=1)]
    fit = Regression(priors, nothing, np.array([]))
    at = Points(np.array([[1.0, 3.0, 3.0]]), np.zeros((1, 1)), [""])
    assert np.exp(fit.predict(at)[0]) == pytest.approx((4**4 + 3**4) ** 0.25)
    shares, log_f = fit._linearise(at, np.zeros(3))
    for index in range(3):
        step = np.eye(3)[index] * 1e-6
        slope = (fit._linearise(at, step)[1] - log_f) / 1e-6
        assert shares[0, index] == pytest.approx(slope[0], rel=1e-4)


def test_planted_coefficients_are_found() -> None:
    """Terms that the grid can tell apart, without noise, and a vague prior."""
    terms = np.random.default_rng(1).uniform(0.1, 1.0, (40, 3))
    planted = np.array([0.5, 2.0, 7.0])
    somewhere = Points(terms, np.arange(40.0)[:, None] * 10, [""] * 40)
    fit = Regression([Prior(1.0, 10.0)] * 3, somewhere, terms @ planted)
    assert fit.coefficients == pytest.approx(planted, rel=0.02)


def test_without_measurements_predictions_follow_the_priors() -> None:
    """Log-normal with factor 2: a standard deviation of ln 2, if there is only one term."""
    nothing = Points(np.zeros((0, 2)), np.zeros((0, 1)), [])
    fit = Regression([Prior(3.0, 2.0), Prior(1.0, 2.0)], nothing, np.array([]))
    mean, sd = fit.predict(Points(np.array([[2.0, 0.0]]), np.zeros((1, 1)), [""]))
    assert np.exp(mean[0]) == pytest.approx(6.0)
    assert sd[0] == pytest.approx(np.hypot(np.log(2.0), np.hypot(0.12, 0.03)), rel=1e-6)


def test_an_error_that_all_values_share_is_learned_from_one() -> None:
    """A factor of 3 is one standard deviation; the only term is known, the points are far apart.

    Of three times the expected time, ln(3)^2 of a variance of ln(3)^2 + 0.12^2 + 0.03^2 is shared.
    """
    exact = [Prior(1.0, 1.0001)]
    nothing = Points(np.zeros((0, 1)), np.zeros((0, 1)), [])
    far = Points(np.ones((1, 1)), np.full((1, 1), 50.0), [""])
    shared, own = np.log(3.0) ** 2, 0.12**2 + 0.03**2
    _, sd = Regression(exact, nothing, np.array([]), 3.0).predict(far)
    assert sd[0] ** 2 == pytest.approx(shared + own, rel=1e-6)
    here = Points(np.ones((1, 1)), np.zeros((1, 1)), [""])
    mean, sd = Regression(exact, here, np.array([3.0]), 3.0).predict(far)
    assert mean[0] == pytest.approx(np.log(3.0) * shared / (shared + own), rel=1e-6)
    assert sd[0] ** 2 == pytest.approx(shared + own - shared**2 / (shared + own), rel=1e-6)


def test_scales_are_means_over_the_candidates_by_evidence_and_prior() -> None:
    """Two points far apart, as the only term predicts them: densities 1 / (s^2 + n^2) each. The
    priors are log-normal, with medians of 0.06 and 0.03 and a factor of 2."""
    s, n = (grid.ravel() for grid in np.meshgrid([0.12, 0.24], [0.01, 0.02, 0.04, 0.08, 0.16]))
    weights = np.exp(-0.5 * (np.log2(s / 0.06) ** 2 + np.log2(n / 0.03) ** 2)) / (s**2 + n**2)
    far = Points(np.ones((2, 1)), np.array([[0.0], [50.0]]), ["", ""])
    hyper = Regression([Prior(1.0, 1.0001)], far, np.ones(2)).hyper
    for found, sds in ((hyper.process_sd, s), (hyper.noise_sd, n)):
        assert found == pytest.approx(np.sqrt(np.average(sds**2, weights=weights)), rel=1e-5)


def test_points_are_alike_by_distance_and_kind() -> None:
    """At distances 1 and 2 in two coordinates, and with another kind, which counts as 1."""
    one = Points(np.ones((1, 1)), np.zeros((1, 2)), ["base"])
    others = Points(np.ones((2, 1)), np.array([[1.0, 2.0], [1.0, 2.0]]), ["base", "long"])
    assert _similarity(one, others, 1.4)[0] == pytest.approx(
        np.exp(-0.5 * np.array([5.0, 6.0]) / 1.4**2)
    )


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 1), (1, 1), (2, 2 * 5), (7, 2 * 5), (8, 4 * 5 * 2)]
)
def test_few_measurements_leave_less_to_choose(count: int, expected: int) -> None:
    found = _candidates(count, 0.06)
    assert len(found) == expected
    # The noise that is usual is twice that of steps, 0.03; all others as well.
    assert {hyper.noise_sd for hyper in found} == (
        {0.06} if count < 2 else {0.02, 0.04, 0.08, 0.16, 0.32}
    )
    assert min(hyper.process_sd for hyper in found) == (0.12 if count < 8 else 0.03)
    assert {hyper.length_scale for hyper in found} == ({1.4} if count < 8 else {1.4, 2.8})


def test_the_calibration_by_hand() -> None:
    """Errors of 0 to 9 standard deviations: four fifths are below 7.2, of 1.28 expected ones.

    Ten measurements against a weight of twelve.
    """
    nothing = Points(np.zeros((0, 1)), np.zeros((0, 1)), [])
    fit = Regression([Prior(1.0, 2.0)], nothing, np.array([]))
    fit._values, fit._weights, fit._inverse = np.zeros(10), 2.0 * np.arange(10), 4 * np.eye(10)
    assert fit._calibrate() == pytest.approx((7.2 / 1.2815516) ** (10 / 22))


def test_uncertainty_grows_with_distance() -> None:
    works = [make_work(dim, 1) for dim in (256, 384, 512, 640)]
    times = points(works).terms @ np.ones(11)
    fit = Regression([Prior(1.0, 1.5)] * 11, points(works), times)
    _, sd = fit.predict(points([make_work(dim, 1) for dim in (448, 1024, 8192)]))
    assert sd[0] < sd[1] < sd[2]


def test_points_left_out_are_as_if_they_had_not_been_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the same hyperparameters and linearisation, exactly."""
    monkeypatch.setattr("study.estimate.regression.NEAR", np.inf)
    random = np.random.default_rng(3)
    times = points(GRID).terms @ np.ones(11) * np.exp(random.normal(0.0, 0.1, len(GRID)))
    fit = Regression(PRIORS, points(GRID), times, 2.0)
    assert 1.4 <= fit.hyper.length_scale <= 2.8
    gone = [0, 7, 8, 20]
    kept = [at for at in range(len(GRID)) if at not in gone]
    again = Regression(PRIORS, points([GRID[at] for at in kept]), times[kept], 2.0)
    again.hyper, again._log_c = fit.hyper, fit._log_c
    again._condition()
    at = points([GRID[index] for index in gone])
    for quick, slow in zip(fit.without(gone).predict(at), again.predict(at), strict=True):
        assert quick == pytest.approx(slow, rel=1e-6)


def test_a_fit_is_repeated_without_the_points_that_determined_a_coefficient() -> None:
    """One of eleven points has the second term: without it, its coefficient is the prior's."""
    terms = np.array([[1.0, 0.0]] * 10 + [[1.0, 1.0]])
    alike = Points(terms, np.arange(11.0)[:, None] * 10, [""] * 11)
    fit = Regression([Prior(1.0, 10.0)] * 2, alike, terms @ np.array([2.0, 7.0]))
    assert fit.coefficients == pytest.approx([2.0, 7.0], rel=0.05)
    assert np.array_equal(fit.without([0]).coefficients, fit.coefficients)
    assert fit.without([10]).coefficients == pytest.approx([2.0, 1.0], rel=0.05)


@pytest.mark.parametrize(
    ("factors", "low", "high"),
    [([1, 1000], 1.0, 1.0), ([1, 1000, 1], 1.5, 2.0), ([1, 1, 1], 1.0, 1.0)],
)
def test_intervals_are_widened_from_three_measurements_on(
    factors: list[int], low: float, high: float
) -> None:
    """Repeats of one configuration. Of two that disagree, either may be the wrong one."""
    repeats = points([make_work(512, 1)] * len(factors))
    fit = Regression(PRIORS, repeats, repeats.terms @ np.ones(11) * np.array(factors))
    assert low <= fit.scale <= high


@pytest.mark.parametrize(
    "candidates",
    [pytest.param(GRID[10:], id="new configurations"), pytest.param(GRID[:2], id="known ones")],
)
def test_the_most_informative_measurement_narrows_the_variance_most(
    candidates: list[Workload],
) -> None:
    """`narrowing` predicts the variance of a fit with the measurement."""
    known, targets = points(GRID[:2]), points(candidates)
    times = known.terms @ np.ones(11)
    fit = Regression(PRIORS, known, times)
    gains = fit.narrowing(targets)
    before = fit.predict(targets)[1]
    index = int(np.argmax(gains))
    both = points([*GRID[:2], candidates[index]])
    # as predicted, so that the fit stays where it is
    value = np.exp(fit.predict(points([candidates[index]]))[0])
    again = Regression(PRIORS, both, np.concatenate([times, value]))
    again._refit([fit.hyper])
    after = again.predict(targets)[1] / again.scale
    assert (before**2 - after**2).sum() == pytest.approx(gains[index], rel=0.05)
