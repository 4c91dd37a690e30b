"""Decay, thumbs, refusals: alarms with their words, and quiet where nothing is wrong."""

import json

import pytest

from llama_factory.core.types import Example, Message
from llama_factory.data.sources.feedback import Feedback
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.monitoring.diagnosis import diagnose
from llama_factory.monitoring.outputs import (
    Answered,
    decay,
    first_scores,
    read_answers,
    thumbs,
    traffic,
)
from llama_factory.monitoring.series import Point

AT = "2026-01-01T00:00:00+00:00"


def answers(task, right, count=40):
    scores = [float(n < right) for n in range(count)]
    return [
        Prediction(task, "?", "", "", {"token_f1": s}, 1.0, 2, key=f"{task}{n}")
        for n, s in enumerate(scores)
    ]


def decayed(first, now, **options):
    found = decay(first, now, "token_f1", AT, version="v0003", max_drop=0.1, **options)
    return {point.name: point for point in found}


def test_what_was_lost_since_it_was_learned_is_an_alarm():
    first = [*answers("v0001 faq", 36), *answers("v0002 news", 30)]
    now = [*answers("v0001 faq", 4), *answers("v0002 news", 30)]
    found = decayed(first, now)
    assert [found["decay.faq"].alert, found["decay.news"].alert] == [True, False]
    assert found["decay.faq"].value == pytest.approx(0.8)
    assert found["decay.faq"].words.startswith(
        "faq: token_f1 -0.80 since it was learned (90 %: -0."
    )
    assert found["decay.faq"].words.endswith("more than the loss of 0.1 that the gate allows")


def test_rows_of_the_versions_own_round_hide_no_loss_of_older_ones():
    own = answers("v0003 faq", 30)
    found = decayed([*answers("v0001 faq", 36), *own], [*answers("v0001 faq", 20), *own])
    assert found["decay.faq"].value == pytest.approx(0.4)
    assert found["decay.faq"].alert
    assert decayed(own, own)["decay.faq"].value == 0  # there is nothing older


def test_a_group_that_vanished_or_was_renamed_has_no_decay():
    assert decayed(answers("v0001 faq", 30), answers("v0002 other", 30)) == {}
    assert decayed([], []) == {}


def test_one_row_and_no_change_at_all_are_quiet():
    assert not decayed(answers("v0001 faq", 1, 1), answers("v0001 faq", 0, 1))["decay.faq"].alert
    assert not decayed(answers("v0001 faq", 9), answers("v0001 faq", 9))["decay.faq"].alert


def test_the_first_scores_are_those_of_the_version_that_learned_a_task():
    early, late = answers("v0001 faq", 30), answers("v0001 faq", 1)
    first = first_scores({"v0001": early, "v0002": [*late, *answers("v0002 news", 3)]})
    assert first[:40] == early
    assert {row.task for row in first} == {"v0001 faq", "v0002 news"}


def said(version, rating, number):
    turns = Message("user", "?"), Message("assistant", "!")
    row = Example(turns, "feedback", "f", 1)
    return Feedback(f"{version}{number}", f"c{number}", rating, AT, version, row)


def rated(version, count, down):
    return [said(version, "down" if n % count < down else "up", n) for n in range(count)]


def test_unhappy_users_are_an_alarm_that_names_the_release():
    book = [*rated("v0006", 100, 5), *rated("v0007", 60, 30)]
    (point,) = thumbs(book, "v0007", AT)
    assert (point.name, point.value, point.alert) == ("feedback.down", 0.5, True)
    (told,) = diagnose({point.name: point}, {})
    assert told.startswith(
        "Users are unhappy since release v0007: users rate 30 of 60 answers of v0007 down (50%), "
        "5 of 100 of the versions before (5%"
    )
    assert "they do not ask what users ask" in told


def test_users_as_happy_as_before_are_quiet():
    assert not thumbs([*rated("v0006", 100, 5), *rated("v0007", 60, 3)], "v0007", AT)[0].alert
    assert not thumbs(rated("v0007", 60, 50), "v0007", AT)[0].alert  # nothing to compare with
    assert thumbs(rated("v0006", 60, 50), "v0007", AT) == []


def test_refusals_and_short_answers_are_alarms():
    fine = "The parcel arrives within three days of the order."
    before = [Answered("v0001", fine + " " * (n % 20)) for n in range(60)]
    after = [Answered("v0002", "I'm sorry, I cannot help.") for _ in range(40)]
    found = {p.name: p for p in traffic([*before, *after], "v0002", AT)}
    assert found["traffic.refusals"].alert
    assert found["traffic.refusals"].value == 1.0
    assert found["traffic.length"].alert
    same = [Answered("v0002", fine + " " * (n % 20)) for n in range(40)]
    assert not any(p.alert for p in traffic([*before, *same], "v0002", AT))
    assert traffic(after[:2], "v0002", AT) == []


def test_answered_requests_are_read_and_damaged_lines_left_out(tmp_path):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."}]
    row = {"messages": turns, "group": "g", "file": "f", "line": 1}
    lines = [
        {"name": f"c{n}/0", "when": f"2026-01-0{9 - n}", "version": "v1", "row": row}
        for n in (1, 2)
    ]
    text = "\n".join([*map(json.dumps, lines), json.dumps(lines[0]), '{"name": 3}', '{"cut'])
    (tmp_path / "conversations-2026-01-01.jsonl").write_text(text)
    assert read_answers([tmp_path, tmp_path / "none"]) == [Answered("v1", "Yes.")] * 2


def test_a_lost_group_is_diagnosed_with_its_cause():
    lost = Point(AT, "decay.faq", 0.8, True, "faq: lost", 0.1, "v0003")
    report = {
        "evaluation": {"guard_perplexity": 10.0},
        "base_guard_perplexity": 5.0,
        "training": {"steps": 12},
        "strategies": {"ewc": {}},
    }
    first, rate, replay = diagnose({lost.name: lost}, report)
    assert first.startswith("Knowledge was lost in v0003: faq: lost.")
    assert "general perplexity is x 2.00 of the base model's after 12 updates" in rate
    assert "Replay is missing: no earlier row was taught again (strategies: ewc)" in replay
    assert len(diagnose({lost.name: lost}, {"strategies": {"replay": {}}})) == 1
    assert diagnose({}, {}) == []
