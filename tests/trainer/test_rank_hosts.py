"""The machines of a run's ranks."""

from trainer.rank_hosts import RankHost, cores_per_rank


def test_cores_per_rank_are_those_of_the_smallest_machine() -> None:
    here = [RankHost("a", "", frozenset(range(8)), 8)] * 2
    there = [RankHost("b", "", frozenset({core}), 1) for core in range(2)]
    assert cores_per_rank(here) == 4
    limited = [RankHost("a", "", frozenset(range(8)), 3)] * 2  # a quota of three cores
    assert cores_per_rank(limited) == 1.5
    assert cores_per_rank([*here, *there]) == 1
