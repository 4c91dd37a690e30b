"""What follows from the conversations of a candidate and of production."""

import math
from dataclasses import replace

import pytest

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.serving import canary_store
from llama_factory.serving.canary import FIRST_ANSWERS, Canary, CanarySettings, Judged, News
from llama_factory.versions import releases
from llama_factory.versions.releases import Standing
from llama_factory.versions.workspace import Workspace

STANDING = Standing("v0001", "v0002", 2)
SETTINGS = CanarySettings()


def begun(**settings):
    return Canary.begun(STANDING, 0.1, CanarySettings(**settings), "now")


def news(
    num_production, num_candidate, *, bad=(0, 0), kinds=("errors",), standing=STANDING, **more
):
    """Conversations in turns, of which every n-th is bad."""
    judged = []
    for number in range(max(num_production, num_candidate)):
        for arm, count, every in zip(
            ("production", "candidate"), (num_production, num_candidate), bad, strict=True
        ):
            if number < count:
                is_bad = bool(every) and number % every == 0
                judged.append(Judged(arm, dict.fromkeys(kinds, is_bad)))
    return News(standing, tuple(judged), **more)


def test_nothing_follows_from_nothing():
    assert begun().decide(SETTINGS) is None


def test_a_worse_candidate_is_taken_back_with_its_counts():
    canary = begun(watch=["errors"]).after(news(200, 200, bad=(50, 4)))
    decision = canary.decide(SETTINGS)
    assert decision.state == "taken_back"
    assert "errors 50 of 200 (production 4 of 200)" in decision.why


def test_a_candidate_that_is_worse_in_one_kind_of_three_is_taken_back():
    canary = begun()
    for kind in ("errors", "thumbs_down", "latency"):
        bad = (50, 4) if kind == "thumbs_down" else (50, 50)
        canary = canary.after(news(200, 200, bad=bad, kinds=[kind]))
    assert canary.decide(SETTINGS).state == "taken_back"


def test_a_candidate_that_is_not_worse_in_every_kind_is_promoted():
    canary = begun(watch=["errors", "thumbs_down"])
    canary = canary.after(news(800, 800, kinds=["errors"]))
    assert canary.decide(SETTINGS) is None, "thumbs down are not known"
    canary = canary.after(news(800, 800, kinds=["thumbs_down"]))
    assert canary.decide(SETTINGS).state == "promoted"


def test_an_undecided_candidate_is_held_and_the_missing_conversations_are_named():
    canary = begun(watch=["errors"]).after(news(30, 30, bad=(10, 10), seconds=72 * 3600))
    decision = canary.decide(SETTINGS)
    assert decision.state == "undecided"
    needed = canary.outcomes_needed(SETTINGS)
    assert f"about {needed} more conversations" in decision.why
    assert needed > 100


@pytest.mark.parametrize("failed", [FIRST_ANSWERS - 1, FIRST_ANSWERS])
def test_answers_that_all_fail_end_it_without_statistics(failed):
    canary = begun().after(News(STANDING, num_answers=FIRST_ANSWERS, num_failed=failed))
    decision = canary.decide(SETTINGS)
    assert (decision is not None) == (failed == FIRST_ANSWERS)


def test_a_candidate_that_cannot_be_served_is_taken_back():
    assert "no such file" in begun().decide(SETTINGS, "no such file").why


def test_news_of_another_trial_and_of_negative_time_change_nothing():
    other = replace(STANDING, since=9)
    assert begun().after(news(9, 9, standing=other, seconds=99.0)) == begun()
    assert begun().after(News(STANDING, seconds=-1e9)).seconds == 0


def test_only_the_kinds_that_are_watched_count():
    canary = begun(watch=["errors"]).after(news(200, 200, bad=(0, 1), kinds=["latency"]))
    assert canary == begun(watch=["errors"])


def test_a_canary_survives_being_written():
    canary = begun().after(news(50, 20, bad=(9, 3), kinds=["errors", "latency"], seconds=5.25))
    assert Canary.from_json(canary.to_json()) == canary


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path)
    releases.promote(workspace.releases, "v0001", "test")
    return workspace


def wanted(_, __):
    return True


def unwanted(_, __):
    return False


def hold(workspace, version="v0002"):
    releases.hold(workspace.releases, version, "test")
    return releases.read(workspace.releases).standing


def test_a_canary_begins_with_a_candidate_that_is_wanted_and_not_with_another(workspace):
    assert canary_store.advance(workspace, SETTINGS, is_wanted=wanted) is None
    standing = hold(workspace)
    assert canary_store.advance(workspace, SETTINGS, is_wanted=unwanted) is None
    canary = canary_store.advance(workspace, SETTINGS, is_wanted=wanted)
    assert (canary.standing, canary.state, canary.fraction) == (standing, "running", 0.1)


def test_a_version_that_the_gate_refused_is_tried_only_where_an_operator_asks(workspace):
    hold(workspace)
    assert canary_store.advance(workspace, SETTINGS) is None
    canary_store.start(workspace, "v0002", 0.3)
    canary = canary_store.advance(workspace, SETTINGS)
    assert (canary.state, canary.fraction) == ("running", 0.3)


def test_the_released_version_is_no_candidate(workspace):
    with pytest.raises(VersionError, match="nothing to try"):
        canary_store.start(workspace, "v0001", 0.3)


def test_a_worse_candidate_loses_its_alias_and_the_history_says_why(workspace):
    standing = hold(workspace)
    watch = CanarySettings(watch=["errors"])
    canary_store.advance(workspace, watch, is_wanted=wanted)
    canary = canary_store.advance(
        workspace, watch, news(200, 200, bad=(50, 4), standing=standing), wanted
    )
    assert (canary.state, canary.decided) == ("taken_back", None)
    current = releases.read(workspace.releases)
    assert current.aliases == {"production": "v0001", "previous": "v0000"}
    assert current.history[-1].why.startswith("taken back by the canary: worse than production")
    assert canary_store.advance(workspace, watch, is_wanted=wanted) == canary


def test_a_good_candidate_is_promoted_and_the_history_says_why(workspace):
    standing = hold(workspace)
    watch = CanarySettings(watch=["errors"])
    canary_store.advance(workspace, watch, is_wanted=wanted)
    canary = canary_store.advance(workspace, watch, news(900, 900, standing=standing), wanted)
    assert canary.state == "promoted"
    current = releases.read(workspace.releases)
    assert current.aliases == {"production": "v0002", "previous": "v0001"}
    assert current.history[-1].why.startswith("promoted by the canary: not worse")


def test_an_undecided_candidate_stays_and_is_not_tried_again_by_itself(workspace):
    standing = hold(workspace)
    canary_store.advance(workspace, SETTINGS, is_wanted=wanted)
    canary_store.advance(workspace, SETTINGS, News(standing, seconds=1e6), wanted)
    canary = canary_store.advance(workspace, SETTINGS, is_wanted=wanted)
    assert canary.state == "undecided"
    assert releases.read(workspace.releases).aliases["candidate"] == "v0002"
    canary_store.start(workspace, "v0002", 0.5)
    again = canary_store.advance(workspace, SETTINGS)
    assert (again.state, again.fraction, again.seconds) == ("running", 0.5, 0)
    assert canary_store.read(workspace).earlier[-1]["state"] == "undecided"


@pytest.mark.parametrize("move", ["promote", "rollback", "withdraw", "hold"])
def test_what_an_operator_did_is_never_undone(workspace, move):
    standing = hold(workspace)
    watch = CanarySettings(watch=["errors"])
    canary_store.advance(workspace, watch, is_wanted=wanted)
    if move == "promote":
        releases.promote(workspace.releases, "v0002", "by hand")
    elif move == "rollback":
        releases.promote(workspace.releases, "v0000", "rolled back")
    elif move == "withdraw":
        releases.withdraw_candidate(workspace.releases, standing, "by hand")
    else:
        hold(workspace, "v0003")
    before = releases.read(workspace.releases)
    good = news(900, 900, standing=standing)
    canary_store.advance(workspace, watch, good, unwanted)
    assert releases.read(workspace.releases) == before
    last = canary_store.read(workspace).last
    assert last.state == "moved"
    assert before.history[-1].why in last.why


def test_a_pair_that_was_left_and_came_back_is_another_trial(workspace):
    standing = hold(workspace)
    canary_store.advance(workspace, SETTINGS, is_wanted=wanted)
    hold(workspace, "v0003")
    again = hold(workspace)
    assert again != standing
    canary = canary_store.advance(workspace, SETTINGS, news(9, 9, standing=standing), wanted)
    assert (canary.standing, canary.evidence["errors"].seen[0].count) == (again, 0)


@pytest.mark.parametrize("is_done", [False, True])
def test_a_decision_that_a_crash_interrupted_is_carried_out_once(workspace, is_done):
    standing = hold(workspace)
    watch = CanarySettings(watch=["errors"])
    canary_store.advance(workspace, watch, is_wanted=wanted)
    good = news(900, 900, standing=standing)
    with pytest.MonkeyPatch.context() as patch:
        if is_done:  # the release was moved, and nothing was written after that
            done = canary_store._carried_out
            patch.setattr(canary_store, "_carried_out", lambda *each: [done(*each), 1 / 0])
        else:
            patch.setattr(canary_store, "_carried_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            canary_store.advance(workspace, watch, good, wanted)
    assert (releases.read(workspace.releases).production == "v0002") == is_done
    assert canary_store.advance(workspace, watch, is_wanted=wanted).state == "promoted"
    history = releases.read(workspace.releases).history
    assert [entry.why.startswith("promoted") for entry in history] == [False, False, True]


def test_an_operator_who_comes_between_decision_and_deed_wins(workspace):
    standing = hold(workspace)
    watch = CanarySettings(watch=["errors"])
    canary_store.advance(workspace, watch, is_wanted=wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canary_store, "_carried_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            canary_store.advance(workspace, watch, news(900, 900, standing=standing), wanted)
    releases.promote(workspace.releases, "v0003", "by hand")
    assert canary_store.advance(workspace, watch, is_wanted=unwanted).state == "moved"
    assert releases.read(workspace.releases).production == "v0003"


def test_abort_takes_the_candidate_back(workspace):
    hold(workspace)
    canary_store.advance(workspace, SETTINGS, is_wanted=wanted)
    assert canary_store.abort(workspace) == "v0002"
    assert canary_store.read(workspace).last.state == "aborted"
    assert "candidate" not in releases.read(workspace.releases).aliases
    with pytest.raises(VersionError, match="no candidate"):
        canary_store.abort(workspace)


def test_a_damaged_file_is_named_with_the_way_out(workspace):
    files.write_json(workspace.canary, {"last": 3})
    with pytest.raises(VersionError, match=r"canary\.json is damaged .* Delete it"):
        canary_store.read(workspace)


def test_e_is_printed_however_large():
    evidence = begun(watch=["errors"]).evidence["errors"]
    huge = replace(evidence, worse=replace(evidence.worse, log_e=1e5))
    decision = replace(begun(), evidence={"errors": huge}).decide(SETTINGS)
    assert f"e = {math.exp(50):.3g}" in decision.why
