"""Lives of a canary at random: outcomes, restarts, crashes, operators, clocks that jump."""

import math
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.serving import canary_store
from llama_factory.serving.canary import CanarySettings, Judged, News
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace

SETTINGS = CanarySettings(watch=["errors", "thumbs_down"], tolerated=0.3, max_hours=10)
VERSIONS = st.sampled_from(["v0000", "v0001", "v0002", "v0003"])
BAD = st.fixed_dictionaries({"errors": st.booleans(), "thumbs_down": st.booleans()})
OUTCOMES = st.lists(
    st.builds(Judged, st.sampled_from(["production", "candidate"]), BAD), max_size=30
)
BY_CANARY = ("promoted by the canary", "taken back by the canary")
LIVING = ("running", "asked")


class KilledError(Exception):
    """The process ends at a write."""


class CanaryLife(RuleBasedStateMachine):
    """What happens to a workspace, and what a person would expect of it."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.workspace = Workspace(self.folder)
        self.counted = Counter()
        self.by_hand = 0
        self.is_whole = True

    def teardown(self):
        shutil.rmtree(self.folder)

    @initialize()
    def a_candidate_is_held(self):
        releases.promote(self.workspace.releases, "v0001", "by hand")
        releases.hold(self.workspace.releases, "v0002", "by hand")
        self.by_hand = 2

    @property
    def current(self):
        return releases.read(self.workspace.releases)

    @property
    def last(self):
        return canary_store.read(self.workspace).last

    def look(self, news=None):
        """A server looks; whatever it moves, it moves as the files allow."""
        before, was = self.current, self.last
        canary_store.advance(self.workspace, SETTINGS, news, lambda *_: True)
        self.is_whole = True
        self.check_moves(before)
        now = self.last
        if now is not None and (was is None or was.standing != now.standing):
            self.counted.clear()
        mine = was is not None and news is not None and was.standing == news.standing
        if mine and was.is_running and now.standing == was.standing and now.state != "moved":
            self.counted.update(each.arm for each in news.judged)

    def check_moves(self, before):
        after = self.current
        if after == before:
            return
        (entry,) = after.history[len(before.history) :]
        assert entry.why.startswith(BY_CANARY)
        canary = self.last
        assert canary.standing == before.standing, "it moved what it had not compared"
        expected = before.aliases.copy()
        del expected["candidate"]
        if entry.why.startswith("promoted"):
            expected |= {"production": canary.standing.candidate}
            expected |= {"previous": canary.standing.production}
        assert after.aliases == expected

    @rule()
    def a_server_looks(self):
        self.look()

    @precondition(lambda self: self.last is not None)
    @rule(judged=OUTCOMES, seconds=st.sampled_from([-1e9, 0.0, 1.0, 3600.0, 1e9]))
    def outcomes_come(self, judged, seconds):
        """The seconds too: a clock may go back, or sleep for years."""
        self.look(News(self.last.standing, tuple(judged), seconds=seconds))

    @precondition(lambda self: self.last is not None)
    @rule(judged=OUTCOMES)
    def outcomes_of_another_trial_come(self, judged):
        standing = self.last.standing
        old = type(standing)(standing.production, standing.candidate, standing.since + 99)
        seen = {kind: each.seen for kind, each in self.last.evidence.items()}
        is_same = self.last.standing == self.current.standing
        self.look(News(old, tuple(judged)))
        if is_same and self.last.standing == standing:
            assert {kind: each.seen for kind, each in self.last.evidence.items()} == seen

    @precondition(lambda self: self.last is not None)
    @rule(failed=st.integers(0, 6), fine=st.integers(0, 6))
    def answers_come(self, failed, fine):
        self.look(News(self.last.standing, num_answers=failed + fine, num_failed=failed))

    @precondition(lambda self: self.last is not None)
    @rule(judged=OUTCOMES, writes=st.integers(0, 2))
    def a_server_is_killed_at_a_write(self, judged, writes):
        before, left = self.current, [writes]
        write = files.write_json

        def write_or_die(path, value):
            if not left[0]:
                raise KilledError
            left[0] -= 1
            write(path, value)

        news = News(self.last.standing, tuple(judged), seconds=1e9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "write_json", write_or_die)
            try:
                canary_store.advance(self.workspace, SETTINGS, news, lambda *_: True)
            except KilledError:
                self.is_whole = False
        if self.current != before:
            entry = self.current.history[-1]
            assert len(self.current.history) == len(before.history) + 1
            assert entry.why.startswith(BY_CANARY)
        self.counted.clear()
        self.counted["unknown"] = 1  # what came with the kill may or may not have been written

    @rule(version=VERSIONS)
    def an_operator_promotes(self, version):
        releases.promote(self.workspace.releases, version, "by hand")

    @rule()
    def an_operator_rolls_back(self):
        previous = self.current.aliases.get("previous", "v0000")
        releases.promote(self.workspace.releases, previous, "by hand")

    @rule(version=VERSIONS)
    def a_round_holds_a_candidate(self, version):
        releases.hold(self.workspace.releases, version, "by hand")

    @rule(version=VERSIONS, fraction=st.floats(0.01, 0.9))
    def an_operator_starts_one(self, version, fraction):
        is_released = self.current.production == version
        try:
            canary_store.start(self.workspace, version, fraction)
        except VersionError:
            assert is_released
        else:
            assert self.current.aliases["candidate"] == version
            self.look()
            assert self.last.standing.candidate == version
            assert self.last.fraction == fraction
            assert self.last.state in LIVING

    @rule()
    def an_operator_aborts(self):
        try:
            canary_store.abort(self.workspace)
        except VersionError:
            assert "candidate" not in self.current.aliases
        else:
            assert "candidate" not in self.current.aliases

    @invariant()
    def the_files_can_be_read(self):
        canary_store.read(self.workspace)
        assert self.current.production

    @invariant()
    def a_canary_that_runs_is_sound(self):
        last = self.last
        if last is None:
            return
        assert math.isfinite(last.seconds)
        assert last.seconds >= 0
        assert bool(last.ended) == (last.state not in LIVING)
        for each in last.evidence.values():
            assert math.isfinite(each.worse.log_e)
            assert math.isfinite(each.not_worse.log_e)
            if not self.counted["unknown"]:
                ours, theirs = each.seen
                counts = self.counted["production"], self.counted["candidate"]
                assert (ours.count, theirs.count) == counts


TestCanaryLife = CanaryLife.TestCase
TestCanaryLife.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
