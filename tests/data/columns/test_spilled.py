"""Arrays come back from disk as they were, group by group, as often as asked."""

from pathlib import Path

import numpy as np

from tinygptv.data.columns.spilled import Records, Spilled


def test_groups_come_back_in_order_and_again(tmp_path: Path) -> None:
    spilled = Spilled(tmp_path / "arrays")
    assert list(spilled) == []
    groups = [[np.arange(3, dtype=np.uint32), np.zeros((2, 4))], [np.empty(0, np.int64), np.ones((1, 1), np.uint8)]]
    for group in groups:
        spilled.append(*group)
    for _ in range(2):
        for group, expected in zip(spilled, groups, strict=True):
            for array, known in zip(group, expected, strict=True):
                assert array.dtype == known.dtype
                assert np.array_equal(array, known)


def test_records_are_read_one_by_one_in_any_order(tmp_path: Path) -> None:
    records = Records(tmp_path / "records", 3)
    made = [np.full(3, number, np.uint8) for number in range(5)]
    assert records.extend(made[:2]) == 0
    assert records.extend([]) == 2
    assert records.extend(made[2:]) == 2
    for number in (4, 0, 2, 2):
        assert np.array_equal(records[number], made[number])
