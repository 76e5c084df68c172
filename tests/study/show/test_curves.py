"""Loss curves are thinned without losing what a reader looks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.show.curves import Line, band, thin


@settings(max_examples=25)
@given(at=st.integers(0, 99_999), height=st.sampled_from((-1.0, 1.0, np.nan)))
def test_a_spike_of_one_step_survives(at: int, height: float) -> None:
    x = np.arange(1.0, 100_001)
    y = 3 + 2 / np.sqrt(x)
    y[at] += 10 * height
    line = thin(x, y)
    assert len(line.x) < 5_000
    assert x[at] in line.x
    assert line.y[list(line.x).index(x[at])] == pytest.approx(y[at], nan_ok=True)
    assert (line.x[0], line.x[-1]) == (1, 100_000)
    assert (np.diff(line.x) > 0).all()


def test_of_each_part_the_ends_the_extremes_and_a_gap_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two parts of a decade each: from 1 to 9, and from 10 to 15 with a gap at 12."""
    monkeypatch.setattr("study.show.curves.PER_DECADE", 1)
    y = [5.0, 9, 4, 3, 1, 2, 3, 4, 6, 7, 7, np.nan, 2, 8, 7.5]
    assert thin(np.arange(1.0, 16.0), np.array(y)).x.tolist() == [1, 2, 5, 9, 10, 12, 13, 14, 15]


def test_a_short_curve_keeps_every_point_that_a_log_axis_shows() -> None:
    line = thin(np.array([0.0, 1.0, 2.0]), np.array([9.0, 8.0, np.nan]))
    assert line.x.tolist() == [1, 2]
    np.testing.assert_array_equal(line.y, [8, np.nan])


def test_a_band_has_the_median_and_the_range_of_its_runs() -> None:
    """Three runs with records at other steps: constant 1, 2 and 4, the last with a spike to 9."""
    x = np.geomspace(1, 1000, 200)
    high = np.full(200, 4.0)
    high[100] = 9.0
    lines = [Line(x[::7], np.ones(29)), Line(x[3::5], np.full(40, 2.0)), Line(x, high)]
    drawn = band(lines)
    inside = (drawn.x > 2) & (drawn.x < 500)
    assert (drawn.middle[inside] == 2).all()
    assert (drawn.low[inside] == 1).all()
    assert drawn.high.max() == 9
    assert (np.diff(drawn.x) > 0).all()


def test_the_median_of_runs_that_begin_at_other_times_does_not_rise() -> None:
    """The loss of each falls. One that began 2 s later joined at 5.8, and the curve rose to 4.4."""
    x = np.geomspace(7, 20, 100)
    falling = 2.5 + 3.3 * (7 / x) ** 6
    early, late = Line(x, falling), Line(x + 2, falling)
    drawn = band([early, late])
    known = np.isfinite(drawn.middle)
    assert (np.diff(drawn.middle[known]) < 0.01).all()
    assert drawn.x[known][0] == pytest.approx(9, rel=0.1)
    assert drawn.high[known][0] > 5  # the range has the late run's first losses
    assert (drawn.x[0], drawn.x[-1]) == pytest.approx((7, 22), rel=0.05)
    # Of three, the one in the middle is the median.
    assert np.isfinite(band([early, late, early]).middle).all()


def test_the_band_of_runs_that_are_short_beside_their_start_up() -> None:
    """From 4.1 to 4.3 s is half of a 25th of a decade: one value would not be seen as a line."""
    x = np.linspace(4.1, 4.3, 40)
    drawn = band([Line(x, 3 - (x - 4.1)), Line(x, 4 - (x - 4.1))])
    assert len(drawn.x) >= 20
    assert drawn.x[0] == pytest.approx(4.1, rel=0.01)
    assert drawn.x[-1] == pytest.approx(4.3, rel=0.01)
    assert drawn.middle[0] == pytest.approx(3.5, abs=0.01)
    assert drawn.middle[-1] == pytest.approx(3.3, abs=0.01)


def test_runs_with_the_same_steps_have_a_band_at_these_steps() -> None:
    """Also at the ends: no loss is drawn beyond the last step."""
    steps = np.array([1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0])
    drawn = band([Line(steps, 6 - 0.1 * steps), Line(steps, 5 - 0.1 * steps)])
    at = np.searchsorted(drawn.x, steps * (1 - 1e-9))
    assert drawn.x[at] == pytest.approx(steps)
    assert (drawn.x[0], drawn.x[-1]) == (pytest.approx(1), pytest.approx(40))
    assert drawn.middle[at] == pytest.approx(5.5 - 0.1 * steps)
    assert drawn.low[at] == pytest.approx(5 - 0.1 * steps)
    assert (np.diff(drawn.x) > 0).all()
