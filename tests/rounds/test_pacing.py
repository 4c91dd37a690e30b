"""When a round begins, and what is said where it does not: triggers, quiet hours, waits."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from llama_factory.config.loading import load_config
from llama_factory.core.errors import ConfigError
from llama_factory.rounds.loop_settings import LoopSettings
from llama_factory.rounds.pacing import RoundHistory, decide, quiet_until, read_history
from llama_factory.rounds.series import MonitorNumbers
from llama_factory.rounds.triggers import TRIGGERS, SeriesValue, Situation
from llama_factory.versions.journal import Event
from llama_factory.versions.workspace import Workspace

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
BERLIN, SHANGHAI = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Shanghai")


def situation(**values):
    usual = {"now": NOW, "rows": 10, "oldest": NOW, "last_round": None, "zone": UTC}
    return Situation(**(usual | values))


def settings(**values):
    return LoopSettings.model_validate({"timezone": "UTC", "cooldown": "0s"} | values)


def look(trigger, **values):
    return TRIGGERS.parse(trigger).look(situation(**values))


def event(what, at, **data):
    return Event(0, at.isoformat(), "watcher", what, "", data)


def test_rows_are_counted_up_to_their_number():
    rows = {"type": "rows", "at_least": 50}
    assert look(rows, rows=49).text == "49 of 50 rows"
    assert [look(rows, rows=each).is_due for each in (49, 50)] == [False, True]


def test_the_oldest_row_waits_so_long_and_a_clock_set_back_makes_nothing_older():
    age = {"type": "age", "at_most": "24h"}
    found = look(age, oldest=NOW - timedelta(hours=3, minutes=20))
    assert (found.is_due, found.text) == (False, "the oldest row waits 3h 20m of 1d")
    assert look(age, oldest=NOW - timedelta(hours=24)).is_due
    assert look(age, oldest=NOW + timedelta(days=900)).text == "the oldest row waits 0s of 1d"


@pytest.mark.parametrize(
    ("oldest", "last_round", "is_due"),
    [("01:00", None, True), ("04:00", None, False), ("01:00", "03:30", False)],
)
def test_a_schedule_is_due_once_for_what_came_before_its_time(oldest, last_round, is_due):
    def at(text):
        return datetime.combine(NOW.date(), time.fromisoformat(text), UTC)

    found = look(
        {"type": "schedule", "cron": "0 3 * * *", "timezone": "UTC"},
        oldest=at(oldest),
        last_round=at(last_round) if last_round else None,
    )
    assert found.is_due == is_due
    if not is_due:
        assert found.text == "next at 2026-12-01 03:00 UTC"


def times_of(cron, day, zone):
    """Every moment within two days at which a schedule becomes due, by minutes."""
    trigger = TRIGGERS.parse({"type": "schedule", "cron": cron, "timezone": zone.key})
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    last, due = start, []
    for minute in range(0, 48 * 60, 10):
        now = start + timedelta(minutes=minute)
        if trigger.look(situation(now=now, oldest=start, last_round=last)).is_due:
            due.append(f"{now.astimezone(zone):%d %H:%M}")
            last = now
    return due


def test_a_night_without_half_past_two_has_its_round_an_hour_later():
    assert times_of("30 2 * * *", "2026-03-28T12:00", BERLIN) == ["29 03:30", "30 02:30"]


def test_a_night_with_half_past_two_twice_has_one_round():
    assert times_of("30 2 * * *", "2026-10-24T12:00", BERLIN) == ["25 02:30", "26 02:30"]


def test_a_zone_without_changes_of_the_clock_has_its_time_each_day():
    assert times_of("0 3 * * *", "2026-03-28T00:00", SHANGHAI) == ["29 03:00", "30 03:00"]


def test_a_clock_that_jumps_begins_no_storm_of_rounds():
    """Forward by a year and back: each jump is at most one round."""
    trigger = TRIGGERS.parse({"type": "schedule", "cron": "0 3 * * *", "timezone": "UTC"})
    ahead = NOW + timedelta(days=400)
    assert trigger.look(situation(now=ahead, oldest=NOW)).is_due
    after = trigger.look(situation(now=ahead, oldest=NOW, last_round=ahead))
    back = trigger.look(situation(oldest=NOW, last_round=ahead))
    assert (after.is_due, back.is_due) == (False, False)


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("every night", "'every night' has 2 fields, and cron has five"),
        ("61 3 * * *", "'61 3 * * *' is no time of a calendar"),
        ("0 3 31 2 *", "is no time of a calendar"),
        ("@daily", "has 1 fields"),
    ],
)
def test_nonsense_for_cron_is_refused_with_the_reason(tmp_path, cron, reason):
    path = tmp_path / "factory.yaml"
    path.write_text(f"loop: {{triggers: [{{type: schedule, cron: '{cron}'}}]}}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert reason in str(error.value)


def test_a_zone_that_does_not_exist_is_refused_with_the_nearest(tmp_path):
    path = tmp_path / "factory.yaml"
    path.write_text("loop: {timezone: Asia/Shangai}\n")
    with pytest.raises(ConfigError, match="Did you mean 'Asia/Shanghai'"):
        load_config(path)


def test_thumbs_down_count_from_so_many_ratings_on():
    thumbs = {"type": "feedback", "thumbs_down_above": 0.1, "over": 10}
    assert look(thumbs, ratings=[True] * 9).text == "9 of 10 ratings"
    assert not look(thumbs, ratings=[True] * 5 + [False] * 9 + [True]).is_due
    found = look(thumbs, ratings=[False] * 8 + [True] * 2)
    assert (found.is_due, found.text) == (True, "20 % of 10 ratings are thumbs down, limit 10 %")


def test_drift_counts_when_it_was_measured_after_the_last_round(tmp_path):
    workspace = Workspace(tmp_path)
    numbers = MonitorNumbers(workspace)
    assert numbers.latest() == {}
    workspace.monitor.write_text(
        '{"at": "2026-11-30T09:00:00Z", "name": "drift.length", "value": 0.9}\n'
        "half a li\n"
        '{"at": "2026-11-30T10:00:00Z", "name": "drift.length", "value": 0.31}\n'
        '{"at": "2026-11-30T10:00:00Z", "name": "drift.loss", "value": null}\n'
        '{"at": "some time", "name": "drift.labels", "value": 0.1}\n'
    )
    readings = numbers.latest()
    assert readings.keys() == {"drift.length"}
    assert readings["drift.length"] == SeriesValue(0.31, NOW.replace(hour=10))
    drift = {"type": "drift", "above": 0.2}
    assert look(drift, readings=readings).text == "drift of length 0.31, limit 0.2"
    assert look(drift, readings=readings).is_due
    assert not look(drift, readings=readings, last_end=NOW.replace(hour=11)).is_due


def test_one_sentence_has_every_reason():
    loop = settings(triggers=[{"type": "rows", "at_least": 50}], not_between=["08:00", "18:00"])
    decision = decide(situation(rows=41), RoundHistory(), loop)
    assert decision.sentence == "41 of 50 rows; not before 18:00 (quiet hours)"
    assert decision.until == NOW.replace(hour=18)
    assert not decide(situation(rows=50), RoundHistory(), loop).begins


def test_nothing_begins_a_round_on_nothing():
    loop = settings(triggers=[{"type": "rows", "at_least": 1}])
    decision = decide(situation(rows=0), RoundHistory(), loop)
    assert (decision.begins, decision.sentence) == (False, "nothing waits to be taught")


def test_what_came_to_nothing_before_is_not_tried_again():
    loop = settings(triggers=[{"type": "rows", "at_least": 1}])
    history = read_history([event("round ended", NOW, identity="abc")], NOW)
    assert not decide(situation(), history, loop, "abc").begins
    assert decide(situation(), history, loop, "other").begins


@pytest.mark.parametrize(
    ("local", "until"),
    [
        ("2026-11-30T07:59", None),
        ("2026-11-30T08:00", "2026-11-30T18:00"),
        ("2026-11-30T17:59", "2026-11-30T18:00"),
        ("2026-11-30T18:00", None),
    ],
)
def test_quiet_hours_begin_and_end_on_the_clock_of_the_wall(local, until):
    now = datetime.fromisoformat(local).replace(tzinfo=BERLIN)
    end = quiet_until((time(8), time(18)), now, BERLIN)
    assert end == (datetime.fromisoformat(until).replace(tzinfo=BERLIN) if until else None)


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        ("2026-03-28T22:30Z", "2026-03-29T04:00Z"),  # 23:30 to 06:00: the night is an hour shorter
        ("2026-10-24T22:30Z", "2026-10-25T05:00Z"),  # 00:30 to 06:00: it is an hour longer
        ("2026-10-25T01:30Z", "2026-10-25T05:00Z"),  # 02:30 for the second time
        ("2026-06-01T12:00Z", None),
    ],
)
def test_quiet_nights_end_at_the_same_hour_when_the_clock_is_changed(moment, until):
    end = quiet_until((time(22), time(6)), datetime.fromisoformat(moment), BERLIN)
    assert end == (datetime.fromisoformat(until) if until else None)


def test_unquoted_times_are_explained():
    with pytest.raises(ValueError, match="write times in quotes"):
        settings(not_between=[480, 1080])


def test_rounds_have_a_pause_between_them_which_parking_doubles():
    loop = settings(triggers=[{"type": "rows", "at_least": 1}], cooldown="1h")
    ended = event("round ended", NOW - timedelta(minutes=50))
    assert "cool-down of 1h" in decide(situation(), read_history([ended], NOW), loop).sentence
    later = situation(now=NOW + timedelta(minutes=10))
    assert decide(later, read_history([ended], later.now), loop).begins
    parked = [event("round failed", NOW), event("parked", NOW)]
    history = read_history(parked * 2, NOW)
    assert (history.failures, history.parkings) == (0, 2)
    assert "cool-down of 4h" in decide(situation(), history, loop).sentence


def test_tries_have_growing_waits():
    loop = settings(triggers=[{"type": "rows", "at_least": 1}])
    failed = [event("round failed", NOW, code=1)]
    for count, wait in ((1, "10m"), (2, "20m")):
        text = decide(situation(), read_history(failed * count, NOW), loop).sentence
        assert f"the round failed {count} of 3 times, {wait} between tries" in text


def test_a_round_that_was_asked_to_stop_has_not_failed():
    history = read_history([event("round failed", NOW, was_stopped=True)], NOW)
    assert history.failures == 0


def test_a_day_has_so_many_rounds_and_no_more():
    loop = settings(triggers=[{"type": "rows", "at_least": 1}], max_rounds_per_day=2)
    begun = [event("round begun", NOW - timedelta(hours=each)) for each in (30, 23, 2)]
    text = decide(situation(), read_history(begun, NOW), loop).sentence
    assert "2 rounds in 24 hours are enough, not before 2026-11-30 13:00" in text
    assert decide(situation(), read_history(begun[:2], NOW), loop).begins


def test_what_a_clock_that_was_ahead_wrote_down_holds_nothing():
    loop = settings(triggers=[{"type": "rows", "at_least": 1}], cooldown="1h", max_rounds_per_day=1)
    ahead = [event(what, NOW + timedelta(days=900)) for what in ("round begun", "round ended")]
    assert decide(situation(), read_history(ahead, NOW), loop).begins
