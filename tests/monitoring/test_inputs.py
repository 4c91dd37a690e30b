"""Drift of rows: an alarm where the language switches, none where it does not; few and odd rows."""

import math

import pytest

from llama_factory.core.types import Example, Message
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.monitoring.inputs import loss_drift, row_drift
from llama_factory.monitoring.profile import labels_of, traits_of, words_in
from llama_factory.monitoring.series import Point
from llama_factory.monitoring.shift import category_shift, psi

AT = "2026-01-01T00:00:00+00:00"
COLORS = ("red", "blue", "green")


def row(question, answer):
    return Example((Message("user", question), Message("assistant", answer)), "g", "f", 1)


def english(count, start=0, answer="It is delivered on day {}, from the store in town."):
    asked = "When does the parcel with number {} arrive at the address that you have from me?"
    numbers = range(start, start + count)
    return traits_of(row(asked.format(n), answer.format(n)) for n in numbers)


def chinese(count):
    return traits_of(
        row(f"第{n}号包裹什么时候送到我家？", f"包裹将在第{n}天送达。") for n in range(count)
    )


def by_name(points):
    return {point.name: point for point in points}


def test_a_switch_of_language_is_an_alarm_with_the_numbers():
    found = by_name(row_drift(english(80), chinese(30), {}, AT, "v0002"))
    language = found["drift.language"]
    assert language.alert
    assert language.value > language.limit
    assert "zh 100 % (before: 0 %)".replace(" %", "%") in language.words
    assert "that chance explains with 30 rows" in language.words
    assert found["drift.words"].alert
    assert (language.version, language.rows, language.at) == ("v0002", 30, AT)


def test_rows_like_those_before_are_quiet():
    found = row_drift(english(80), english(30, start=80), {}, AT)
    assert [point.name for point in found if point.alert] == []
    assert {point.name for point in found} == {"drift.language", "drift.length", "drift.words"}


def test_labels_that_move_are_an_alarm_and_free_text_has_none():
    before = english(60, answer="red") + english(60, answer="blue")
    after = english(40, answer="green")
    assert by_name(row_drift(before, after, {}, AT))["drift.labels"].alert
    same = english(20, answer="red") + english(20, answer="blue")
    assert not by_name(row_drift(before, same, {}, AT))["drift.labels"].alert
    assert labels_of(english(50)) == frozenset()


def test_longer_rows_are_an_alarm():
    after = english(40, answer="Please note. " * 60)
    assert by_name(row_drift(english(80), after, {}, AT))["drift.length"].alert


@pytest.mark.parametrize(("old", "new"), [(0, 40), (80, 0), (80, 1), (4, 40)])
def test_few_rows_are_like_anything(old, new):
    assert row_drift(english(old), english(new), {}, AT) == []


def test_rows_that_are_all_equal_are_no_division_by_zero():
    equal = english(1) * 20
    assert [p.alert for p in row_drift(equal, equal, {}, AT)] == [False] * 3
    empty = traits_of(row("", "") for _ in range(20))
    assert all(math.isfinite(p.value) for p in row_drift(empty, empty, {}, AT))


def test_false_alarms_are_rare():
    """Both sides drawn from one distribution: 0.2 % of the limit's own draws lie above it."""
    import numpy as np

    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        drawn = [list(rng.choice(COLORS, size, p=[0.6, 0.3, 0.1])) for size in (200, 30)]
        alarms += category_shift(*drawn, []).is_alert
    assert alarms <= 3


def test_where_every_round_is_new_that_is_no_alarm():
    before, after = ["a"] * 50, ["b"] * 50
    first = category_shift(before, after, [])
    assert first.is_alert
    assert not category_shift(before, after, [first.value] * 3).is_alert


def test_waiting_rows_that_are_looked_at_often_stay_an_alarm():
    points = row_drift(english(80), chinese(30), {}, AT)
    past = {point.name: [point] * 50 for point in points}
    assert by_name(row_drift(english(80), chinese(30), past, AT))["drift.language"].alert
    of_rounds = {
        name: [Point(AT, name, p[0].value, version="v0001")] * 3 for name, p in past.items()
    }
    assert not by_name(row_drift(english(80), chinese(30), of_rounds, AT))["drift.language"].alert


def test_psi_by_hand():
    import numpy as np

    before, after = np.array([9.5, 9.5]), np.array([14.5, 4.5])  # with 0.5 added: 10:10 and 15:5
    wanted = 0.25 * math.log(0.75 / 0.5) - 0.25 * math.log(0.25 / 0.5)
    assert float(psi(before, after)) == pytest.approx(wanted)


def test_words_of_both_scripts():
    assert list(words_in("The Cat's 保修期, ok 3")) == ["the", "cat", "s", "保修", "修期", "ok"]
    assert list(words_in("")) == []


def predictions(losses, task="v0001 a"):
    return [Prediction(task, "?", "", "", nats=2 * loss, tokens=2) for loss in losses]


def test_unlikely_rows_are_an_alarm_of_loss():
    usual = predictions([1 + 0.01 * n for n in range(60)])
    (found,) = loss_drift(usual, predictions([5.0] * 40), {}, AT, "v0002")
    assert (found.name, found.value, found.alert) == ("drift.loss", 1.0, True)
    assert "100% of 40 new rows are less likely" in found.words
    (quiet,) = loss_drift(usual, predictions([1.3] * 40), {}, AT)
    assert not quiet.alert
    again = {"drift.loss": [Point(AT, "drift.loss", 1.0, True, version="v0002")]}
    assert not loss_drift(usual, predictions([5.0] * 40), again, AT)[0].alert  # no more than before


@pytest.mark.parametrize("losses", [[], [1.0], [math.nan] * 10])
def test_losses_that_say_nothing_are_no_series(losses):
    assert loss_drift(predictions([1.0] * 20), predictions(losses), {}, AT) == []
    assert loss_drift(predictions(losses), predictions([1.0] * 20), {}, AT) == []


def test_losses_that_are_all_equal_are_quiet():
    (found,) = loss_drift(predictions([1.0] * 20), predictions([1.0] * 20), {}, AT)
    assert (found.value, found.alert) == (0.0, False)
