"""`llama-factory feedback`."""

import json

import pytest

from llama_factory import run
from llama_factory.core import files
from tests.cli.taught import command, invoke
from tests.rounds.feedback import give, states


@pytest.fixture
def bot(tiny_model, tmp_path):
    return run.init(tmp_path / "bot", str(tiny_model))


def feedback(bot, *words):
    return invoke("feedback", bot.folder, *words)


def error(bot, *words):
    done = command("feedback", bot.folder, *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def listed(bot, *words):
    return [each["id"] for each in json.loads(feedback(bot, "list", "--json", *words))]


def test_feedback_is_listed_with_what_became_of_it(bot):
    first = give(bot, "How long?", "12 months", "24 months")
    give(bot, "How much?", "5 euros", rating="up", comment="nice\x1b[2J")
    feedback(bot, "accept", first[:8], "--reviewer", "ann")
    text = feedback(bot)
    assert "24 months" in text
    assert "accepted" in text
    assert "1 wait for a person" in text
    assert "\x1b[2J" not in text
    (one, other) = json.loads(feedback(bot, "--json"))
    assert (one["state"], one["right"], one["reviewers"]) == ("accepted", "24 months", ["ann"])
    assert (other["state"], other["rating"]) == ("waiting", "up")


def test_filters_take_rating_version_time_and_state(bot):
    down = give(bot, "a?", "b", "c", version="v0001")
    up = give(bot, "d?", "e", rating="up", version="v0002")
    assert listed(bot, "--rating", "up") == [up]
    assert listed(bot, "--version", "v0001") == [down]
    assert listed(bot, "--since", "2026-11-30") == [down, up]
    assert listed(bot, "--since", "2026-12-01") == []
    assert listed(bot, "--state", "waiting") == [down, up]
    assert "is no time" in error(bot, "--since", "yesterday")


def test_feedback_is_accepted_corrected_and_rejected(bot):
    ids = [give(bot, f"{n}?", "no", "yes") for n in range(3)]
    feedback(bot, "accept", ids[0])
    feedback(bot, "accept", ids[1], "--answer", "perhaps", "--note", "asked the shop")
    feedback(bot, "reject", ids[2])
    assert [*states(bot).values()] == ["accepted", "accepted", "rejected"]
    rows = json.loads(feedback(bot, "--json"))
    assert [row["right"] for row in rows] == ["yes", "perhaps", "yes"]


def test_all_that_waits_is_decided_at_once(bot):
    down = [give(bot, f"{n}?", "no", "yes") for n in range(3)]
    up = give(bot, "x?", "y", rating="up")
    feedback(bot, "reject", down[0])
    feedback(bot, "accept", "--all", "--rating", "down")
    found = states(bot)
    assert [found[each] for each in (*down, up)] == ["rejected", "accepted", "accepted", "waiting"]


def test_wrong_names_decide_nothing(bot):
    first = give(bot, "a?", "b", "c")
    assert "there is no feedback 'zzz'" in error(bot, "accept", first, "zzz")
    assert states(bot) == {first: "waiting"}
    assert "which feedback is meant" in error(bot, "accept")
    assert "which feedback is meant" in error(bot, "accept", first, "--all")
    feedback(bot, "accept", first)
    assert "is settled" in error(bot, "reject", first)


def test_rows_are_exported_for_other_programs(bot, tmp_path):
    give(bot, "How long?", "12 months", "24 months")
    give(bot, "How much?", "5 euros", rating="up")
    path = tmp_path / "rows.jsonl"
    feedback(bot, "export", "--output", path, "--kinds", "pair,judged")
    rows = list(files.read_jsonl(path))
    assert [row.get("is_desirable") for row in rows] == [None, True, False, True]
    assert rows[0]["rejected"]["content"] == "12 months"
    assert "exists" in error(bot, "export", "--output", path)
    assert "Did you mean 'pair'" in error(
        bot, "export", "--output", tmp_path / "x", "--kinds", "pare"
    )


def test_the_review_shows_feedback_among_its_cases(bot):
    each = give(bot, "How long?", "12 months", "24 months", key="web", tags=("wrong",))
    text = invoke("data", "review", bot.folder, "--case", each[:8])
    assert "thumbs down for v0000 by key web" in text
    assert "better than: 12 months" in text
    invoke("data", "review", bot.folder, "--case", each[:8], "--choose", "1")
    assert states(bot) == {each: "accepted"}
    invoke("data", "review", bot.folder, "--case", each[:8], "--take-back")
    assert states(bot) == {each: "waiting"}
