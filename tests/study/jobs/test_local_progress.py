"""What is left, by the time of the trainings."""

import re
from datetime import datetime, timedelta

from study.jobs.local_progress import LocalProgress
from tests.study.conftest import MakeGrid


def test_trainings_count_by_their_time(make_grid: MakeGrid) -> None:
    """Of 100 s + 300 s, the first took 200 s: the pace is half as fast as estimated."""
    now = [0.0]
    progress = LocalProgress(lambda: now[0])
    first, second = make_grid()[:2]
    progress.expect([first, second], {first.name: 100.0, second.name: 300.0})
    now[0] = 200.0
    before = datetime.now()
    line = progress.finished(first)
    assert "1 of 2 trainings finished, 25% of their time; done at about " in line
    end = before + timedelta(seconds=600)
    assert f"{end:%H:%M}" in line or f"{end + timedelta(minutes=1):%H:%M}" in line
    assert re.fullmatch(r"\[\d\d:\d\d\] 2 of 2 trainings finished\.", progress.finished(second))


def test_without_estimates_flops_stand_for_the_time(make_grid: MakeGrid) -> None:
    """`wide` has more FLOPs than `tiny`; on two GPUs a run of twice the tokens takes as long."""
    grid = make_grid()
    progress = LocalProgress()
    progress.expect(list(grid), {cell.name: None for cell in grid})
    shares = []
    for cell in grid[:3]:  # tiny on 1 and 2 GPUs, wide on 1
        (share,) = re.findall(r"(\d+)% of their time", progress.finished(cell))
        shares.append(int(share))
    assert abs(shares[1] - 2 * shares[0]) <= 1
    assert shares[2] - shares[1] > shares[0]
