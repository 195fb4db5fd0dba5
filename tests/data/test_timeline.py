"""Steps, rows and positions of a run against a walk that counts them one by one."""

import random

from data.plan.batch_rows import BatchRows, rows_at
from data.plan.timeline import RowRate, Timeline


def walked(segments: list[tuple[int, RowRate]], rows: int) -> list[tuple[int, int]]:
    """(row after it, positions after it) of each step, up to `rows` rows."""
    steps, row, read = [], 0, 0
    while row < rows:
        number = max(i for i, (first, _) in enumerate(segments) if first <= row)
        rate = segments[number][1]
        end = row + rows_at(rate.batch_rows, row)
        if number + 1 < len(segments):
            end = min(end, segments[number + 1][0])
        read += (end - row) * rate.length
        row = end
        steps.append((row, read))
    return steps


def test_a_timeline_is_what_counting_gives() -> None:
    """Random edits of T and B, and schedules of B, at rows between steps and within them."""
    luck = random.Random(3)

    def batch_rows() -> BatchRows:
        if luck.random() < 0.5:
            return luck.randint(1, 9)
        places = sorted(luck.sample(range(1, 200), luck.randint(1, 4)))
        return tuple((place, luck.randint(1, 9)) for place in [0, *places])

    for _ in range(60):
        firsts = [0, *sorted(luck.sample(range(1, 250), luck.randint(0, 4)))]
        segments = [(first, RowRate(luck.choice([16, 64, 96]), batch_rows())) for first in firsts]
        line, steps = Timeline(segments), walked(segments, 400)
        assert [line.positions_after(step) for step in range(len(steps) + 1)] == [0, *(p for _, p in steps)]
        assert all(positions % line.unit == 0 for _, positions in steps)
        total = steps[-1][1]
        for asked in [0, 1, total, *(luck.randint(1, total) for _ in range(40))]:
            expected = next((n for n, (_, read) in enumerate(steps, 1) if read >= asked), 0) if asked else 0
            assert line.steps_for(asked) == expected
            row = line.row_for(asked)
            lengths = [rate.length for first, rate in segments for _ in range(_rows_of(segments, first, 420))]
            assert sum(lengths[:row]) >= asked
            assert row == 0 or sum(lengths[: row - 1]) < asked


def _rows_of(segments: list[tuple[int, RowRate]], first: int, end: int) -> int:
    later = [row for row, _ in segments if row > first]
    return min([*later, end]) - first


def test_it_is_arithmetic_however_long_the_run() -> None:
    line = Timeline([(0, RowRate(4096, ((0, 256), (10**9, 2048)))), (3 * 10**9, RowRate(32768, 256))])
    assert line.positions_after(line.steps_for(10**15)) - 10**15 < 32768 * 256
    assert line.row_for(4096 * 10**9) == 10**9
