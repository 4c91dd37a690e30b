"""The file of series: added to, damaged, long, and with a clock that jumps."""

import json
import math

import pytest

from llama_factory.monitoring import series
from llama_factory.monitoring.series import Point, append, latest, read
from llama_factory.versions.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def points(*values, name="drift.language"):
    return [Point(f"2026-01-0{n + 1}T00:00:00+00:00", name, v) for n, v in enumerate(values)]


def test_what_is_added_is_read_again(workspace):
    one = Point(
        "2026-01-01T00:00:00+00:00", "drift.loss", 0.5, True, "w", 0.2, "v0002", 9, {"e": 3}
    )
    append(workspace, [one, *points(0.1, 0.2)])
    assert read(workspace)["drift.loss"] == [one]
    assert latest(workspace)["drift.language"].value == 0.2
    line = json.loads(workspace.monitor.read_text().splitlines()[1])
    assert line == {
        "at": "2026-01-01T00:00:00+00:00", "name": "drift.language", "value": 0.1, "alert": False,
        "words": "",
    }  # fmt: skip


def test_nothing_observed_is_no_series(workspace):
    append(workspace, [])
    assert not workspace.monitor.exists()
    assert read(workspace) == {}
    assert latest(workspace) == {}


def test_a_damaged_last_line_and_strange_ones_are_left_out(workspace):
    append(workspace, points(0.1))
    with workspace.monitor.open("a") as file:
        file.write('[]\n{"name": "x"}\n{"at": "t", "name": "y", "value": "much"}\n\x00\xff\n')
        file.write('{"at": "2026-01-09T00:00:00+00:00", "name": "drift.lan')
    assert [p.value for p in read(workspace)["drift.language"]] == [0.1]
    append(workspace, points(0.7))
    assert [p.value for p in read(workspace)["drift.language"]] == [0.1, 0.7]


def test_no_number_is_stored_as_null(workspace):
    append(workspace, points(math.nan, math.inf, 0.5))
    assert "NaN" not in workspace.monitor.read_text()
    found = read(workspace)["drift.language"]
    assert [p.value for p in found] == [None, None, 0.5]
    assert series.values(found) == [0.5]


def test_a_clock_that_jumps_changes_no_order(workspace):
    append(workspace, points(0.1, 0.2, 0.3)[::-1])
    assert [p.value for p in read(workspace)["drift.language"]] == [0.3, 0.2, 0.1]
    assert latest(workspace)["drift.language"].value == 0.1


def test_of_a_long_file_only_the_end_is_read(workspace, monkeypatch):
    line = json.dumps(points(0.25)[0].to_json()) + "\n"
    workspace.monitor.write_text(line * 200_000)
    append(workspace, points(0.5))
    monkeypatch.setattr(series, "TAIL_BYTES", 100 * len(line))
    found = read(workspace, most=1000)["drift.language"]
    assert 95 <= len(found) <= 101
    assert found[-1].value == 0.5


def test_fields_of_later_programs_are_left_out(workspace):
    workspace.monitor.write_text('{"at": "t", "name": "n", "value": 1, "colour": "red"}\n')
    assert latest(workspace)["n"] == Point("t", "n", 1)
