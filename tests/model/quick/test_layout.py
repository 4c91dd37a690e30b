"""Rows end to end: every token has its place, and what rows begin with in common is read once."""

import torch

from llama_factory.model.padding import fill
from llama_factory.model.quick.layout import LEAST_SHARED, end_to_end


def read_back(layout):
    """Token ids of every row, out of the pass, with padding after them."""
    return layout.ids[layout.places].tolist()


def rows_of(*rows):
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows]), [*map(len, rows)]


def test_rows_lie_one_behind_the_other_without_padding():
    layout = end_to_end(*rows_of([5, 6, 7], [8], [9, 4]), shares=False)
    assert layout.ids.tolist() == [5, 6, 7, 8, 9, 4]
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert [(s.start, s.size, s.before) for s in layout.stretches] == [
        (0, 3, ()),
        (3, 1, ()),
        (4, 2, ()),
    ]
    assert [row[:n] for row, n in zip(read_back(layout), (3, 1, 2), strict=True)] == [
        [5, 6, 7],
        [8],
        [9, 4],
    ]


def test_what_rows_begin_with_in_common_is_read_once_however_deep_it_goes():
    start, more = list(range(10, 40)), list(range(50, 70))
    given = [[*start, 1, 2], [*start, *more, 3], [*start, *more, 4, 5], start, [7, 8]]
    layout = end_to_end(*rows_of(*given), shares=True)
    assert len(layout.ids) == len(given[0]) + len(more) + 1 + 2 + 2
    lengths = [*map(len, given)]
    assert [row[:n] for row, n in zip(read_back(layout), lengths, strict=True)] == given
    place = layout.positions[layout.places]
    for row, length in enumerate(lengths):
        assert place[row, :length].tolist() == list(range(length))
    third = layout.stretches[2]
    assert (third.size, third.num_before) == (2, len(start + more))
    assert len(layout.stretches) == 4  # a row that is the start of the one before it adds nothing


def test_a_few_tokens_in_common_are_read_again():
    start = list(range(10, 10 + LEAST_SHARED - 1))
    layout = end_to_end(*rows_of([*start, 1], [*start, 2]), shares=True)
    assert len(layout.ids) == 2 * LEAST_SHARED


def test_units_fill_passes_as_far_as_they_fit_and_shared_tokens_count_once():
    assert fill([40, 30, 20, 10], [0, 0, 0, 0], max_tokens=100, max_rows=9) == [(0, 4)]
    cuts = fill([60, 60, 60], [0, 0, 0], max_tokens=120, max_rows=9)
    assert sorted(end - start for start, end in cuts) == [1, 2]
    assert fill([60, 60, 60], [0, 50, 50], max_tokens=120, max_rows=9) == [(0, 3)]
    assert fill([500, 5], [0, 0], max_tokens=100, max_rows=9) == [(0, 1), (1, 2)]
    assert fill([5, 5, 5], [0, 0, 0], max_tokens=100, max_rows=1) == [(0, 1), (1, 2), (2, 3)]
    assert fill([], [], max_tokens=100, max_rows=9) == []
