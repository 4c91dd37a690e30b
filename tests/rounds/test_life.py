"""A workspace's life as a state machine, with the gate on: files that arrive and grow, rounds under
changing settings, operators, consolidation, and kills at every point. After every step nothing is
lost, taught twice, half made, or released by anybody but the gate or an operator."""

import json
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
from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.files import read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.types import EvalReport
from llama_factory.data.sources import inbox
from llama_factory.reports import page
from llama_factory.rounds import consolidate, draft, round
from llama_factory.versions import releases, store
from tests.rounds.rounds import SETTINGS, at_rest
from tests.tiny import make_tiny_model

GATED = SETTINGS.replace(
    "max_guard_ratio: 100, max_drop: 1", "max_guard_ratio: 1.15, max_drop: 0.1"
)
GROUPS = ("faq", "news", "shop")
CHANGES = (
    (),
    ("training.epochs=1",),
    ("training.learning_rate=0.3",),
    ("strategies=naive",),
    ("evaluation.metrics=[exact_match, chrf]", "gate.metric=chrf"),
    ("evaluation.max_new_tokens=3",),
    ("gate.max_guard_ratio=0.5",),
    ("data.held_out_fraction=0",),
)


class Killed(BaseException):
    """As a kill: nothing of ours may catch it."""


def killed_before(_real):
    def act(*_args, **_options):
        raise Killed

    return act


def killed_after(real):
    def act(*args, **options):
        real(*args, **options)
        raise Killed

    return act


PLACES = (
    (inbox, "take_copies"),
    (draft, "_prepare"),
    (draft, "_report"),
    (files, "write_json"),
    (round, "measure_before_round"),
    (round, "_train"),
    (round, "_evaluate"),
    (round, "_save"),
    (draft, "strip"),
    (page, "write_pages"),
    (store, "publish"),
    (store, "_appear"),
    (releases, "promote_child"),
    (releases, "hold"),
    (consolidate, "_judge"),
)
arrivals = st.lists(st.tuples(st.sampled_from(GROUPS), st.sampled_from([1, 3, 9, 14])), max_size=2)
kills = st.tuples(st.sampled_from(PLACES), st.sampled_from([killed_before, killed_after]))


class Life(RuleBasedStateMachine):
    """What may happen to a workspace."""

    model: Path
    happened: Counter[str]

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        self.dropped: list[str] = []
        self.manifests: dict[str, str] = {}
        self.settled: tuple[str, ...] | None = None

    def teardown(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize()
    def begin(self):
        self.bot = run.init(self.folder / "bot", str(self.model))
        self.bot.settings.write_text(GATED.format(model=self.model))

    # --- what people and programs do

    def arrive(self, arrivals):
        """New files, or more rows in those that wait."""
        self.settled = None
        for group, count in arrivals:
            with (self.bot.inbox / f"{group}.jsonl").open("a") as file:
                for _ in range(count):
                    number = len(self.dropped)
                    self.dropped.append(f"{group} question {number}?")
                    row = {"instruction": self.dropped[-1], "output": f"{group} answer {number}."}
                    file.write(json.dumps(row) + "\n")
            at_rest(self.bot.inbox / f"{group}.jsonl")

    @rule(arrivals=arrivals, changes=st.sampled_from(CHANGES))
    def learn(self, arrivals, changes):
        self.arrive(arrivals)
        before, production = store.ids(self.bot), releases.read(self.bot.releases).production
        done = run.learn(self.bot.folder, changes, SILENT)
        assert not self.bot.building.exists()
        if done is not None and done.is_new:
            self.happened[done.verdict.word] += 1
            may = done.version.parent == production  # what a kill left may be of another parent
            assert done.is_released == (done.verdict.is_promoted and may)
        elif done is not None:
            assert store.ids(self.bot) == before
            self.happened["made before"] += 1
        self.settled = changes

    @precondition(lambda self: self.settled is not None)
    @rule()
    def learn_again(self):
        """Nothing changed, so nothing is trained."""
        before = store.ids(self.bot)
        with patch.object(round, "_train", killed_before(round._train)):
            done = run.learn(self.bot.folder, self.settled, SILENT)
        self.happened["made before"] += done is not None
        assert done is None or not done.is_new
        assert store.ids(self.bot) == before

    @rule(arrivals=arrivals, changes=st.sampled_from(CHANGES), kill=kills)
    def learn_and_be_killed(self, arrivals, changes, kill):
        self.arrive(arrivals)
        self.killed(kill, lambda: run.learn(self.bot.folder, changes, SILENT))

    @rule(arrivals=arrivals, later=arrivals, changes=st.sampled_from(CHANGES))
    def learn_while_files_grow(self, arrivals, later, changes):
        real = round.measure_before_round

        def meanwhile(*args):
            self.arrive(later)
            return real(*args)

        with patch.object(round, "measure_before_round", meanwhile):
            self.learn(arrivals, changes)
        self.settled = None

    @rule(arrivals=arrivals, changes=st.sampled_from(CHANGES), data=st.data())
    def learn_while_an_operator_promotes(self, arrivals, changes, data):
        self.arrive(arrivals)
        real, parent = round._train, releases.read(self.bot.releases).production
        chosen = data.draw(st.sampled_from(store.ids(self.bot)))
        overruled = []

        def meanwhile(*args):
            trained = real(*args)
            overruled.append(run.promote(self.bot.folder, chosen))
            return trained

        with patch.object(round, "_train", meanwhile):
            done = run.learn(self.bot.folder, changes, SILENT)
        if overruled and chosen != parent:
            self.happened["overruled"] += 1
            assert done is not None
            assert not done.is_released
            assert releases.read(self.bot.releases).production == chosen

    @rule(data=st.data())
    def promote(self, data):
        self.settled = None
        version = data.draw(st.sampled_from(store.ids(self.bot)))
        assert run.promote(self.bot.folder, version) == version
        assert releases.read(self.bot.releases).production == version

    @rule()
    def rollback(self):
        found = releases.read(self.bot.releases)
        target = found.aliases.get("previous", found.production)
        if target != found.production:
            self.settled = None
            assert run.rollback(self.bot.folder, None) == (found.production, target)

    @rule()
    def consolidate(self):
        self.settled = None
        if self.may_consolidate():
            done = run.consolidate(self.bot.folder, [], SILENT)
            self.happened[f"consolidation {done.verdict.word}"] += 1
            assert done.is_released == done.verdict.is_promoted
        else:
            with pytest.raises(VersionError, match="untouched base|nothing since|interrupted here"):
                run.consolidate(self.bot.folder, [], SILENT)

    @rule(kill=kills)
    def consolidate_and_be_killed(self, kill):
        if self.may_consolidate():
            self.killed(kill, lambda: run.consolidate(self.bot.folder, [], SILENT))

    def may_consolidate(self):
        """Whether it is no refusal; what a kill left is finished first, as the command does."""
        if self.bot.building.exists() or self.is_unnamed(store.ids(self.bot)[-1]):
            run.learn(self.bot.folder, (), SILENT)
        version = store.get(self.bot, releases.PRODUCTION)
        return not version.is_base and "consolidated" not in version.report

    def is_unnamed(self, version_id):
        history = releases.read(self.bot.releases).history
        return not any(version_id in entry.aliases.values() for entry in history)

    def killed(self, kill, act):
        self.settled = None
        (place, name), how = kill
        with patch.object(place, name, how(getattr(place, name))):
            try:
                act()
            except Killed:
                self.happened["killed"] += 1

    # --- what holds whatever happened

    @invariant()
    def versions_are_whole_and_never_change(self):
        for version_id in store.ids(self.bot):
            store.get(self.bot, version_id)
            digest = files.sha256(self.bot.versions / version_id / "manifest.json")
            assert self.manifests.setdefault(version_id, digest) == digest
        known = {path.name for path in self.bot.versions.iterdir()}
        assert known - set(self.manifests) <= {".building"}

    @invariant()
    def no_row_is_lost(self):
        places = [
            *self.bot.inbox.glob("*.jsonl"),
            *self.bot.parked.glob("*/*"),
            *self.bot.quarantine.glob("*"),
            *self.bot.versions.glob("v*/data/*.jsonl"),
        ]
        text = "\n".join(path.read_text(encoding="utf-8") for path in places)
        assert [row for row in self.dropped if f'"{row}"' not in text] == []

    @invariant()
    def no_row_is_taught_twice_or_taught_and_tested(self):
        for version_id in store.ids(self.bot):
            lineage = store.lineage(store.get(self.bot, version_id, verify=False))
            sides = [
                self.rows(each.folder, side) for side in ("train", "held_out") for each in lineage
            ]
            times = Counter(row for side in sides for row in side)
            assert [row for row, count in times.items() if count > 1] == []

    def rows(self, folder, side):
        return [row["messages"][0]["content"] for row in read_jsonl(folder / f"data/{side}.jsonl")]

    @invariant()
    def only_the_gate_and_operators_release(self):
        production = "v0000"
        for entry in releases.read(self.bot.releases).history:
            chosen = entry.aliases["production"]
            if entry.why == "promoted by the gate":
                version = store.get(self.bot, chosen, verify=False)
                assert version.parent == production
                assert version.report["verdict"]["promoted"]
            elif chosen != production:
                assert entry.why in ("promoted by hand", "rolled back")
            production = chosen

    @invariant()
    def every_version_was_judged_on_its_own_and_all_earlier_tasks(self):
        for version_id in store.ids(self.bot)[1:]:
            version = store.get(self.bot, version_id, verify=False)
            told = version.report
            before = EvalReport.from_json(told["before"]).tasks
            after = EvalReport.from_json(told["evaluation"]).tasks
            own = {task.name for task in version.tasks()}
            assert before.keys() == after.keys() == {task.name for task in store.tasks(version)}
            checks = told["verdict"]["checks"]
            asked = Counter(
                (check["name"], name)
                for check in checks
                for name in after
                if check["reason"].startswith(f"{name} (")
            )
            expected = {("learned" if name in own else "kept", name): 1 for name in after}
            assert asked == expected
            is_round = "consolidated" not in told
            assert [c["name"] for c in checks].count("held_out") == (is_round and not own)
            parent = store.get(self.bot, version.parent, verify=False)
            if not parent.is_base and parent.report["conditions"] == told["conditions"]:
                kept = {name: task for name, task in before.items() if name not in own}
                assert kept == {n: t for n, t in parent.scores.tasks.items() if n in kept}


@pytest.fixture
def life(tmp_path_factory):
    """The machine on a tiny model."""
    model = make_tiny_model(tmp_path_factory.mktemp("life") / "tiny")
    return type("Life", (Life,), {"model": model, "happened": Counter()})


USUAL = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def live(life, **options):
    run_state_machine_as_test(life, settings=settings(**USUAL, **options))
    sys.stdout.write(f"\nwhat happened: {dict(life.happened)}\n")


@pytest.mark.slow
def test_a_short_life(life):
    live(life, max_examples=3, stateful_step_count=8, derandomize=True)


@pytest.mark.slow
def test_a_long_life(life):
    number = int(os.environ.get("LIVES", "12"))
    live(life, max_examples=number, stateful_step_count=20)
    wanted = {"promoted", "held", "refused", "made before", "killed", "overruled"}
    assert wanted - set(life.happened) == set()
