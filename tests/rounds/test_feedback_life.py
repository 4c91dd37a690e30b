"""Feedback in a workspace's life as a state machine: it comes, is decided, replaced and taken back,
before, during and after rounds of several kinds that are promoted, refused, killed or rolled back.
None of it is lost, taught twice or taught without a person."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llama_factory import run
from llama_factory.core.errors import DataError
from llama_factory.core.files import read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
from llama_factory.data.review.feedback import judge_feedback
from llama_factory.data.sources.feedback import read_feedback
from llama_factory.reports import page
from llama_factory.rounds import draft, round
from llama_factory.rounds.feedback import read_taught
from llama_factory.versions import releases, store
from tests.rounds.feedback import decide, give
from tests.rounds.rounds import SETTINGS, drop
from tests.tiny import make_tiny_model

KINDS = {
    "sft": ("training.max_steps=1",),
    "dpo": ("training.max_steps=1", "training.objective=dpo"),
    "kto": ("training.max_steps=1", "training.objective=kto"),
}
NAIVE = ("strategies=naive", "gate.min_complaints=0")
REFUSING = ("gate.max_guard_ratio=0.01",)
WORDS = ("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour", "island")

kinds = st.sampled_from(sorted(KINDS))
kills = st.sampled_from(
    [(draft, "_prepare"), (round, "_train"), (round, "_save"), (store, "publish")]
)


class Killed(BaseException):
    """As a kill: nothing of ours may catch it."""


def killed(*_args, **_options):
    raise Killed


class FeedbackLife(RuleBasedStateMachine):
    """What may happen to feedback."""

    model: Path
    happened: Counter[str]

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="feedback-"))
        self.given: list[str] = []
        self.answers: dict[str, tuple[str, str]] = {}
        self.latest: dict[int, str] = {}
        self.number = 0

    def teardown(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize()
    def begin(self):
        self.bot = run.init(self.folder / "bot", str(self.model))
        self.bot.settings.write_text(SETTINGS.format(model=self.model))
        for about in range(3):
            self.say(about, about > 0, "down")
            decide(self.bot, self.given[-1])

    # --- what callers and reviewers do

    @rule(
        about=st.integers(0, 8), is_correction=st.booleans(), rating=st.sampled_from(["up", "down"])
    )
    def say(self, about, is_correction, rating):
        """Each answer has one caller, who may say something else later."""
        self.number += 1
        question, given = f"What is the {WORDS[about]} for?", f"nothing {WORDS[about]}"
        right = f"purpose {self.number}" if is_correction else ""
        new = give(
            self.bot,
            question,
            given,
            right,
            rating,
            completion_id=f"c{about}",
            replaces=self.latest.get(about, ""),
            comment=f"number {self.number}",
        )
        self.given.append(new)
        self.latest[about] = new
        self.happened["replaced" if len({*self.latest.values()}) < len(self.given) else "said"] += 1

    @precondition(lambda self: self.given)
    @rule(data=st.data(), how=st.sampled_from(["accept", "accept", "reject", "write"]))
    def decide(self, data, how):
        each = data.draw(st.sampled_from(self.given))
        choice = {"accept": None, "reject": Choice(), "write": Choice(edited=f"written {each[:6]}")}
        try:
            decide(self.bot, each, choice[how])
        except DataError:  # settled, or replaced before anybody was asked
            return
        self.happened[how] += 1

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def take_back(self, data):
        each = data.draw(st.sampled_from(self.given))
        try:
            review.take_back(self.bot.review, each, "bob")
        except DataError:
            return
        self.happened["taken back"] += 1

    # --- rounds

    def accepted(self):
        judged = judge_feedback(self.bot.feedback, self.bot.review)
        return {each.feedback.id: each for each in judged if each.state == "accepted"}

    @rule(kind=kinds, is_refused=st.booleans(), has_files=st.booleans())
    def learn(self, kind, is_refused, has_files):
        if has_files:
            self.number += 1
            drop(self.bot, f"file{self.number}", 6)
        self.round_of(kind, is_refused)

    def round_of(self, kind, is_refused=False):
        changes = (*KINDS[kind], *NAIVE, *(REFUSING if is_refused else ()))
        was_interrupted = self.bot.building.exists()
        before, known = self.accepted(), store.ids(self.bot)
        done = run.learn(self.bot.folder, changes, SILENT)
        if done is None:
            if not was_interrupted:
                self.nothing_is_left(before, kind)
            return
        self.happened[done.verdict.word] += 1
        new = [each for each in store.ids(self.bot) if each not in known]
        if new and not was_interrupted:
            taught = {each.id for each in read_taught(done.version.folder)}
            assert taught <= set(before)

    def nothing_is_left(self, accepted, kind):
        """Where a round has nothing to teach, all that was accepted was taught: to the lineage."""
        if kind != "sft":
            return
        lineage = store.lineage(store.get(self.bot, releases.PRODUCTION))
        known = {row.key for version in lineage for row in self.rows(version.folder, "train")}
        for each in accepted.values():
            if each.is_correction:
                assert Example(each.claimed.messages, "", "", 0).key in known

    @rule(kind=kinds, data=st.data())
    def learn_while_feedback_comes(self, kind, data):
        real = round._train

        def meanwhile(*args):
            trained = real(*args)
            self.say(data.draw(st.integers(0, 8)), True, "down")
            decide(self.bot, self.given[-1])
            self.happened["came meanwhile"] += 1
            return trained

        with patch.object(round, "_train", meanwhile):
            self.round_of(kind)

    @rule(kind=kinds, place=kills)
    def learn_and_be_killed(self, kind, place):
        with patch.object(*place, killed):
            try:
                run.learn(self.bot.folder, (*KINDS[kind], *NAIVE), SILENT)
            except Killed:
                self.happened["killed"] += 1

    @rule()
    def rollback(self):
        found = releases.read(self.bot.releases)
        target = found.aliases.get("previous", found.production)
        if target != found.production:
            self.happened["rolled back"] += 1
            run.rollback(self.bot.folder)

    @rule(data=st.data())
    def promote(self, data):
        run.promote(self.bot.folder, data.draw(st.sampled_from(store.ids(self.bot))))

    # --- what holds whatever happened

    @invariant()
    def nothing_is_lost(self):
        book = read_feedback(self.bot.feedback)
        assert [each.id for each in book.all] == self.given
        assert {each.id for each in book.current} == {*self.latest.values()}

    @invariant()
    def no_row_is_taught_twice(self):
        for version_id in store.ids(self.bot):
            lineage = store.lineage(store.get(self.bot, version_id, verify=False))
            times = Counter(row.key for each in lineage for row in self.rows(each.folder, "train"))
            assert [key for key, count in times.items() if count > 1] == []

    @invariant()
    def what_was_taught_was_accepted_by_somebody_and_is_told(self):
        for version_id in store.ids(self.bot)[1:]:
            version = store.get(self.bot, version_id, verify=False)
            told = read_taught(version.folder)
            assert all(each.reviewers for each in told)
            rows = [row for row in self.rows(version.folder, "train") if row.group == "feedback"]
            assert bool(rows) <= bool(told)

    def rows(self, folder, side):
        return [Example.from_json(row) for row in read_jsonl(folder / f"data/{side}.jsonl")]


@pytest.fixture
def life(tmp_path_factory, monkeypatch):
    """The machine on a tiny model."""
    monkeypatch.setattr(page, "_drawn", lambda *_: (b"", b""))
    model = make_tiny_model(tmp_path_factory.mktemp("life") / "tiny")
    return type("FeedbackLife", (FeedbackLife,), {"model": model, "happened": Counter()})


USUAL = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def live(life, **options):
    run_state_machine_as_test(life, settings=settings(**USUAL, **options))
    sys.stdout.write(f"\nwhat happened: {dict(life.happened)}\n")


@pytest.mark.slow
def test_a_short_life_of_feedback(life):
    live(life, max_examples=4, stateful_step_count=10, derandomize=True)


@pytest.mark.slow
def test_a_long_life_of_feedback(life):
    live(life, max_examples=int(os.environ.get("LIVES", "12")), stateful_step_count=25)
    wanted = {"promoted", "refused", "accept", "reject", "write", "killed", "rolled back"}
    assert wanted - set(life.happened) == set()
