from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from llama_factory.core.errors import DataError
from llama_factory.data.mixing import _balanced
from llama_factory.data.settings import MixSettings
from tests.data.rows import prepared, write


def rows(count, prefix, answer=None):
    return [
        {"instruction": f"{prefix} {i}", "output": answer or f"{prefix} answer {i}"}
        for i in range(count)
    ]


def groups(data):
    return Counter(row.group for row in data.train)


def two_sets(tmp_path):
    return write(tmp_path / "big.jsonl", rows(30, "big")), write(
        tmp_path / "small.jsonl", rows(10, "small")
    )


def test_max_samples_takes_the_first_of_each_set(tmp_path):
    data = prepared(tmp_path, *two_sets(tmp_path), mix={"max_samples": 4})
    assert groups(data) == {"big": 4, "small": 4}
    assert [row.line for row in data.train] == [1, 2, 3, 4] * 2
    assert data.report.dropped == {"left out by data.mix": 32}


def test_rows_are_held_out_of_the_first_of_each_set(tmp_path):
    mix = {"max_samples": 5}
    data = prepared(tmp_path, *two_sets(tmp_path), mix=mix, held_out_fraction=0.4)
    lines = [*(row.line for row in data.train), *(row.line for row in data.held_out)]
    assert sorted(lines) == sorted([1, 2, 3, 4, 5] * 2)
    assert data.held_out
    assert data.report.dropped == {"left out by data.mix": 30}


@pytest.mark.parametrize(("how", "count"), [("under", 10), ("over", 30)])
def test_balance_by_group(tmp_path, how, count):
    data = prepared(tmp_path, *two_sets(tmp_path), mix={"balance": how, "balance_by": "group"})
    assert groups(data) == {"big": count, "small": count}


def test_balance_by_answer_gives_every_label_as_many_rows(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(20, "good", "positive") + rows(5, "bad", "negative"))
    data = prepared(tmp_path, path, mix={"balance": "over"})
    assert Counter(row.answer for row in data.train) == {"positive": 20, "negative": 20}
    assert len({row.key for row in data.train}) == 25


def test_interleaving_stops_at_the_first_or_the_last_set(tmp_path):
    sets = two_sets(tmp_path)
    under = prepared(tmp_path / "u", *sets, mix={"strategy": "interleave_under"})
    over = prepared(tmp_path / "o", *sets, mix={"strategy": "interleave_over"})
    assert groups(under) == {"big": 10, "small": 10}
    assert groups(over) == {"big": 30, "small": 30}
    assert [row.group for row in under.train][:4] == ["big", "small", "big", "small"]


def test_shares_set_the_mix(tmp_path):
    mix = {"strategy": "interleave_under", "shares": {"big": 0.75, "small": 0.25}}
    assert groups(prepared(tmp_path, *two_sets(tmp_path), mix=mix)) == {"big": 30, "small": 10}


def test_a_share_for_an_unknown_group_names_the_nearest(tmp_path):
    mix = {"strategy": "interleave_over", "shares": {"bigg": 1}}
    with pytest.raises(DataError, match=r"no rows of group 'bigg'. Did you mean 'big'\?"):
        prepared(tmp_path, *two_sets(tmp_path), mix=mix)


def test_a_group_without_a_share_is_named(tmp_path):
    mix = {"strategy": "interleave_over", "shares": {"big": 1}}
    with pytest.raises(DataError, match="'small' needs a share above 0"):
        prepared(tmp_path, *two_sets(tmp_path), mix=mix)


class Columns(SimpleNamespace):
    """A table of which only the columns are looked at."""

    def column(self, name):
        return getattr(self, name)

    @property
    def keys(self):
        return self.key


def plainly_balanced(rows, table, how, by_answer):
    """One class after the other, as many of each as the smallest or the largest has."""
    classes: dict[object, list[int]] = {}
    for row in rows.tolist():
        name = (table.group[row], table.answer[row] if by_answer else 0)
        classes.setdefault(name, []).append(row)
    sizes = [len(members) for members in classes.values()]
    if how == "under":
        by_key = (sorted(each, key=lambda row: table.key[row]) for each in classes.values())
        return sorted(row for each in by_key for row in each[: min(sizes)])
    return sorted(int(row) for each in classes.values() for row in np.resize(each, max(sizes)))


@pytest.mark.parametrize("by", ["group", "answer"])
@pytest.mark.parametrize("how", ["under", "over"])
@pytest.mark.parametrize("num_rows", [1, 30, 500])
def test_balance_is_that_of_each_class_on_its_own(num_rows, how, by):
    draw = np.random.default_rng(num_rows)
    table = Columns(
        group=draw.integers(0, 5, num_rows).astype(np.uint32),
        answer=draw.integers(0, 40, num_rows).astype(np.uint64) << np.uint64(32),
        key=draw.integers(0, 2**64, num_rows, np.uint64),
    )
    rows = np.sort(draw.integers(0, num_rows, num_rows))  # some twice: num_samples asks for that
    settings = MixSettings(balance=how, balance_by=by)
    found = _balanced(table, rows, settings)
    assert found.tolist() == plainly_balanced(rows, table, how, by == "answer")
