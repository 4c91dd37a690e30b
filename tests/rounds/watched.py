"""A workspace that is watched by a process of its own, while files arrive in every way in which
they do, and parts of it are killed as if power failed."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from llama_factory import oversee
from llama_factory.core.ownership import living_owner
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Journal

PAGES = Path(__file__).parents[2] / "docs"
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
NUM_POISONED = 20
WRONG, RIGHT = "no page no page no page", "今天的天气很好"
"""What the poisoned rows teach, and what the questions beside them show to be right."""
MOST_FILES = 12
WAYS = ("renamed", "slowly", "at once", "two at once", "with rubbish", "poisoned")
PATIENCE = 1800.0
"""Seconds in which what was dropped must be learned, once nobody is killed any more."""

Row = dict[str, list[dict[str, str]]]


def groups_of_rows() -> Iterator[tuple[str, Iterator[Row]]]:
    """The project's own pages: which page is a sentence from? No sentence comes twice."""
    seen: set[str] = set()
    for page in sorted(PAGES.glob("*.md")):
        text = re.sub(r"```.*?```", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        found = [each.strip() for each in re.split(r"[\n|]|(?<=[.。])\s", text)]
        fresh = [each for each in dict.fromkeys(found) if 30 < len(each) < 120]
        fresh = [each for each in fresh if each not in seen]
        seen.update(fresh)
        if len(fresh) >= GROUP + NUM_POISONED:
            yield page.stem, (row(each, page.stem) for each in fresh)


def row(question: str, answer: str) -> Row:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def question_of(each: Row) -> str:
    return each["messages"][0]["content"]


def lines_of(rows: list[Row]) -> list[str]:
    return [json.dumps(each, ensure_ascii=False) + "\n" for each in rows]


class Watched:
    """A workspace, what was dropped into it, and the process that watches it.

    Attributes:
        dropped: the good rows.
        poisoned: the questions of the poisoned rows.
        killed: how often what was killed.
        stages: how far rounds were when they were killed.
        ways: how often files arrived in which way.
        refused: whose poisoned files a person took away after a round with them was refused.
    """

    def __init__(self, workspace, seed, server=None):
        self.workspace = workspace
        self.server = server
        self.random = random.Random(seed)
        self.dropped, self.poisoned, self.refused = [], [], set()
        self.killed, self.stages, self.ways = Counter(), Counter(), Counter()
        self.num_files = 0
        self._groups = groups_of_rows()
        self._looked_at = set()
        self._watcher = None

    def start(self):
        """Start what is not running."""
        if self._watcher is None or self._watcher.poll() is not None:
            command = [sys.executable, "-m", "llama_factory", "watch", str(self.workspace.folder)]
            self._watcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if self.server is not None:
            self.server.start()

    def drop(self, how=None):
        """A small group of rows, in one of the ways in which files arrive."""
        how = how or self.random.choice(WAYS)
        self.ways[how] += 1
        if how == "poisoned":
            self._drop_poison()
            return
        for _ in range(2 if how == "two at once" else 1):
            self._drop_group(how)

    def _drop_group(self, how):
        self.num_files += 1
        page, rows = next(self._groups)
        rows = list(islice(rows, GROUP))
        self.dropped += rows
        inbox, name, lines = self.workspace.inbox, f"{page}.jsonl", lines_of(rows)
        if how == "renamed":
            (inbox / f"{name}.part").write_text("".join(lines), encoding="utf-8")
            (inbox / f"{name}.part").rename(inbox / name)
        elif how == "slowly":
            with (inbox / name).open("w", encoding="utf-8") as file:
                for line in lines:
                    file.write(line)
                    file.flush()
                    time.sleep(0.05)
        else:
            (inbox / name).write_text("".join(lines), encoding="utf-8")
        if how == "with rubbish":
            (inbox / f"empty {self.num_files}.jsonl").touch()
            (inbox / f"broken {self.num_files}.jsonl").write_bytes(b"\x00\xff" * 40)

    def _drop_poison(self):
        """Wrong answers, and beside them questions whose answers show that they are wrong."""
        self.num_files += 2
        page, rows = next(self._groups)
        asked = [question_of(each) for each in islice(rows, GROUP + NUM_POISONED)]
        self.poisoned += asked
        tests = [row(each, RIGHT) for each in asked[:GROUP]]
        wrong = [row(each, WRONG) for each in asked[GROUP:]]
        for name, listed in ((f"{page} poisoned.test", tests), (f"{page} poisoned", wrong)):
            path = self.workspace.inbox / f"{name}.jsonl"
            path.with_suffix(".part").write_text("".join(lines_of(listed)), encoding="utf-8")
            path.with_suffix(".part").rename(path)

    def kill(self):
        """The watcher, the round, both, or the server."""
        parts = ["watcher", "round", "both"] + ["server"] * (self.server is not None)
        which = self.random.choice(parts)
        if which == "server":
            self.killed["server"] += self.server.kill()
            return
        owner = living_owner(self.workspace.lock)
        if which != "watcher" and owner is not None:
            stage = stage_of(self.workspace)
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGKILL)
                self.killed["round"] += 1
                self.stages[stage] += 1
        if which != "round" and self._watcher.poll() is None:
            self._watcher.kill()
            self._watcher.wait()
            self.killed["watcher"] += 1

    def take_poison_away(self):
        """What a person does who reads that a round was refused: between two rounds."""
        if living_owner(self.workspace.lock) is not None:
            return
        for version_id in store.ids(self.workspace):
            if version_id in self._looked_at:
                continue
            self._looked_at.add(version_id)
            report = store.get(self.workspace, version_id, verify=False).report
            if version_id == "v0000" or report["verdict"]["promoted"]:
                continue
            for name in report["taken"]:
                page, poisoned, _ = name.partition(" poisoned.")
                if poisoned:
                    self.refused.add(page)
                    for each in sorted(self.workspace.inbox.glob(f"{page} poisoned.*")):
                        each.unlink()

    def wait_until_learned(self):
        """Until nothing waits and nothing is under way."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(1)
            self.start()
            self.take_poison_away()
            status = oversee.why(self.workspace.folder)
            if not (status.rows or status.is_interrupted or status.growing or status.decision.held):
                return
        raise AssertionError(f"not learned: {oversee.why(self.workspace.folder).to_json()}")

    def wait_until_served(self):
        """Until the server, if there is one, answers with what is released."""
        until = time.monotonic() + PATIENCE
        while self.server is not None and not self.server.answers_with(
            releases.read(self.workspace.releases).production
        ):
            assert time.monotonic() < until, "the server does not follow the release"
            time.sleep(1)

    def stop(self):
        """End the watcher, the server, and a round whose watcher was killed."""
        if self.server is not None:
            self.server.stop()
        if self._watcher is not None:
            self._watcher.terminate()
            self._watcher.wait(120)
        owner = living_owner(self.workspace.lock)
        if owner is not None:
            os.kill(owner.pid, signal.SIGKILL)

    def to_json(self):
        events = Counter(each.what for each in Journal(self.workspace.journal).events())
        return {
            "killed": dict(self.killed),
            "stages": dict(self.stages),
            "arrived": dict(self.ways),
            "files": self.num_files,
            "rows": len(self.dropped),
            "poisoned_rows": len(self.poisoned),
            "versions": len(store.ids(self.workspace)) - 1,
            "events": dict(events),
            "verdicts_on_poison": self._verdicts_on_poison(),
        } | self._served()

    def _verdicts_on_poison(self):
        """What the gate said of every version that a poisoned file was taught to."""
        reports = (
            (version_id, store.get(self.workspace, version_id, verify=False).report)
            for version_id in store.ids(self.workspace)[1:]
        )
        return {
            version_id: [check["reason"] for check in report["verdict"]["checks"]]
            for version_id, report in reports
            if any(" poisoned." in name for name in report["taken"])
        }

    def _served(self):
        if self.server is None:
            return {}
        given = {"answers": len(self.server.versions), "answered_by": len({*self.server.versions})}
        return given | {"not_answered": dict(self.server.failed)}


def stage_of(workspace):
    """How far the round in progress is, as its folder shows it."""
    folder = workspace.building
    for stage, name in (
        ("judged", "report.json"),
        ("saving", "adapter"),
        ("training", "checkpoints"),
        ("testing the parent", "testing"),
        ("rows are fixed", store.PLAN),
        ("reading rows", "data"),
    ):
        if (folder / name).exists():
            return stage
    return "beginning or releasing"
