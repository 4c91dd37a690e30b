"""A workspace that is watched while its watcher and its rounds are killed at random moments: at the
end no row is lost or taught twice, no version is half made, and the journal explains every release.

`make soak KILLS=40` has it killed more often.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from llama_factory import operate
from llama_factory.core.files import read_jsonl, sha256
from llama_factory.core.ownership import living_owner
from llama_factory.evaluation.evaluator import BUILT_IN_GUARD
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Journal
from llama_factory.versions.journal_facts import INTENTS, open_intents

LOOP = """
loop:
  triggers: [{type: rows, at_least: 5}, {type: age, at_most: 5s}]
  cooldown: 0s
  max_rounds_per_day: 1000
  settle_seconds: 0.3
  scan_seconds: 1
  retry: {times: 1000, backoff: 0s}
"""
GROUP = 6
PATIENCE = 1800.0
"""Seconds in which what was dropped must be learned, once nobody is killed any more."""


class Watched:
    """A workspace, what was dropped into it, and the process that watches it."""

    def __init__(self, workspace, rows, seed):
        self.workspace = workspace
        self.rows = rows
        self.random = random.Random(seed)
        self.dropped = []
        self.num_files = 0
        self.killed = Counter()
        self.watcher = None

    def start(self):
        if self.watcher is None or self.watcher.poll() is not None:
            command = [sys.executable, "-m", "llama_factory", "watch", str(self.workspace.folder)]
            self.watcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def drop(self):
        """A small group of rows, in one of the ways in which files arrive."""
        self.num_files += 1
        inbox, name = self.workspace.inbox, f"group {self.num_files}.jsonl"
        rows = [next(self.rows) for _ in range(GROUP)]
        self.dropped += [row["messages"][0]["content"] for row in rows]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        how = self.random.choice(["renamed", "slowly", "at once", "with rubbish"])
        if how == "renamed":
            (inbox / f"{name}.part").write_text("".join(lines))
            (inbox / f"{name}.part").rename(inbox / name)
        elif how == "slowly":
            with (inbox / name).open("w") as file:
                for line in lines:
                    file.write(line)
                    file.flush()
                    time.sleep(0.05)
        else:
            (inbox / name).write_text("".join(lines))
        if how == "with rubbish":
            (inbox / f"empty {self.num_files}.jsonl").touch()
            (inbox / f"broken {self.num_files}.jsonl").write_bytes(b"\x00\xff" * 40)

    def kill(self):
        """The watcher, the round, or both, as a machine that loses its power would."""
        which = self.random.choice(["watcher", "round", "both"])
        owner = living_owner(self.workspace.lock)
        if which != "watcher" and owner is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGKILL)
                self.killed["round"] += 1
        if which != "round":
            self.watcher.kill()
            self.watcher.wait()
            self.killed["watcher"] += 1

    def wait_until_learned(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(1)
            self.start()
            status = operate.why(self.workspace.folder)
            if not (status.rows or status.is_interrupted or status.growing or status.decision.held):
                return
        raise AssertionError(f"not learned: {operate.why(self.workspace.folder).to_json()}")

    def stop(self):
        if self.watcher is not None:
            self.watcher.terminate()
            self.watcher.wait(120)


def real_rows():
    """Rows of the set that is built in, each with a question of its own."""
    seen = set()
    for row in read_jsonl(BUILT_IN_GUARD):
        turns = row.get("messages") or [
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["output"]},
        ]
        if turns[0]["content"] not in seen:
            seen.add(turns[0]["content"])
            yield {"messages": turns[:2]}


@pytest.mark.slow
def test_a_watched_workspace_survives_kills_at_random_moments(bot):
    kills, seed = int(os.environ.get("KILLS", "4")), int(os.environ.get("SEED", "0"))
    text = bot.settings.read_text().replace("data: {", "data: {cleaning: [unicode, empty], ")
    bot.settings.write_text(text + LOOP)
    life = Watched(bot, real_rows(), seed)
    try:
        while sum(life.killed.values()) < kills:
            life.start()
            if life.random.random() < 0.4 and life.num_files < 12:
                life.drop()
            time.sleep(life.random.uniform(0, 12))
            life.kill()
        life.drop()
        life.wait_until_learned()
    finally:
        life.stop()
    sys.stdout.write(f"\nkilled: {dict(life.killed)}, {life.num_files} files\n")
    versions_are_whole(bot)
    no_row_is_lost_or_taught_twice(bot, life.dropped)
    the_journal_explains_everything(bot)


def versions_are_whole(bot):
    for version_id in store.ids(bot):
        store.get(bot, version_id)
    assert {path.name for path in bot.versions.iterdir()} == set(store.ids(bot))


def no_row_is_lost_or_taught_twice(bot, dropped):
    lineage = store.lineage(store.get(bot, releases.PRODUCTION))
    sides = [each.folder / "data" / f"{side}.jsonl" for each in lineage for side in SIDES]
    learned = Counter(row["messages"][0]["content"] for path in sides for row in read_jsonl(path))
    assert [row for row, count in learned.items() if count > 1] == []
    waiting = "\n".join(path.read_text(errors="replace") for path in places(bot))
    lost = [row for row in dropped if row not in learned and json.dumps(row) not in waiting]
    assert lost == []


SIDES = ("train", "held_out")


def places(bot):
    """Where rows may lie that no released version was taught."""
    return [*bot.inbox.glob("*.jsonl"), *bot.quarantine.glob("*"), *bot.versions.glob("*/data/*l")]


def the_journal_explains_everything(bot):
    operate.journal(bot.folder)
    listed = Journal(bot.journal).events()
    history = releases.read(bot.releases).history
    moves = [each for each in listed if "aliases" in each.data]
    assert [(each.time, each.data["aliases"]) for each in moves] == [
        (move.time, move.aliases) for move in history
    ]
    verdicts = {each.version: each for each in listed if each.what == "verdict"}
    assert verdicts.keys() == set(store.ids(bot)) - {"v0000"}
    for move in moves:
        if move.what == "released":
            assert verdicts[move.version].data["promoted"]
            assert verdicts[move.version].number < move.number
    assert open_intents(Journal(bot.journal).events(what=INTENTS)) == []
    seen = {each.data["sha256"] for each in listed if each.what == "file seen"}
    taken = (store.get(bot, each).report["taken"] for each in verdicts)
    assert {digest for files in taken for digest in files.values()} <= seen
    assert all(sha256(Path(path)) in seen for path in bot.inbox.glob("group*"))
