from study.sequences import evenly, group_by


def test_evenly_keeps_both_ends() -> None:
    assert evenly(range(3), 5) == [0, 1, 2]
    assert evenly(range(101), 5) == [0, 25, 50, 75, 100]


def test_groups_and_their_items_keep_their_order() -> None:
    words = ["two", "three", "one", "four", "six"]
    groups = group_by(words, len)
    assert list(groups.items()) == [(3, ["two", "one", "six"]), (5, ["three"]), (4, ["four"])]
