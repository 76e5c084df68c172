from study.estimate.intervals import PredictionInterval, add


def test_deviations_of_intervals_add_in_quadrature() -> None:
    whole = add([PredictionInterval(9, 10, 13), PredictionInterval(16, 20, 24)])
    assert (whole.low, whole.middle, whole.high) == (30 - 17**0.5, 30, 35)
