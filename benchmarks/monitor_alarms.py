"""What a person reads when something goes wrong: a workspace on real rows, and five things that
happen to it.

    python benchmarks/monitor_alarms.py PATH/TO/cl_benchmark [--out FILE] [--folder BOT]

A good round is promoted. A round whose labels were shuffled is refused, and one whose labels were
exchanged, without anything that protects what was known. Rows like those before are quiet, rows in
another language are an alert. The worst version is then promoted by hand, which the monitor calls
decay, and says what to do. Skips with a reason where the rows are not there.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import print_table, write_results

from llama_factory import run
from llama_factory.core.progress import SILENT
from llama_factory.monitoring.observe import Health
from llama_factory.rounds.finishing import Round
from llama_factory.versions.workspace import Workspace

SETS = ("SST-2", "agnews")
MOST_CHARACTERS = 70
CHINESE = (
    "这部电影很好看，演员的表演也很自然。",
    "服务太差了，再也不会来。",
    "新闻说明天会下雨，请带伞。",
)
SETTINGS = {
    "evaluation.max_new_tokens": 6,
    "training.epochs": 3,
    "gate.max_guard_ratio": 2.0,
}
UNPROTECTED = {"strategies": "naive", "training.epochs": 6}
Row = dict[str, str]


class Said:
    """Keeps what a round says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bar = SILENT.bar

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


def read_rows(folder: Path, seed: int) -> list[Row]:
    """The rows of a set in an order of their own, short enough for a processor."""
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    rows = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    fitting = [row for row in rows if row["label"] in labels and len(row["sentence"]) > 30]
    random.Random(seed).shuffle(fitting)
    asked = f"One of {', '.join(labels)}:"
    return [
        {"instruction": f"{asked} {_short(row['sentence'])}", "output": row["label"]}
        for row in fitting
    ]


def _short(text: str) -> str:
    return text.replace("Title: ", "").replace("Text: ", "").split("\n")[0][:MOST_CHARACTERS]


def drop(workspace: Workspace, name: str, rows: Sequence[Row]) -> None:
    """A whole file in the inbox."""
    path = workspace.inbox / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    os.utime(path, (1, 1))


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same questions with each other's answers."""
    answers = [row["output"] for row in rows]
    random.Random(seed).shuffle(answers)
    return [row | {"output": answer} for row, answer in zip(rows, answers, strict=True)]


def exchanged(rows: Sequence[Row]) -> list[Row]:
    """The same questions, each with the answer that is wrong."""
    labels = sorted({row["output"] for row in rows})
    others = dict(zip(labels, labels[1:] + labels[:1], strict=True))
    return [row | {"output": others[row["output"]]} for row in rows]


class Life:
    """One workspace, and what was seen of it."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.workspace = run.init(folder, options.model)
        self.changes = SETTINGS | ({"training.epochs": 1} if options.quick else {})
        self.seen: list[dict[str, Any]] = []

    def teach(
        self, what: str, wanted: str, taught: Sequence[Row], tested: Sequence[Row], **changes: Any
    ) -> Round:
        """A round on one file; `wanted` is the verdict that it should get."""
        for path in self.workspace.inbox.iterdir():
            path.unlink()
        drop(self.workspace, "reviews", taught)
        drop(self.workspace, "reviews.test", tested)
        said = Said()
        done = run.learn(self.workspace, self.changes | changes, said)
        assert done is not None
        monitor = [line for line in said.lines if "taught before" in line]
        words = [*monitor, done.verdict.summary]
        self.note(what, wanted, done.verdict.word, " | ".join(words))
        return done

    def observe(self, what: str, wanted: str) -> Health:
        """The monitor; `wanted` is a series that should be an alert, or `quiet`."""
        found = run.monitor(self.workspace, {"gate.max_drop": 0.1})
        prefix = "decay." if wanted.startswith("decay") else "drift."
        alerts = sorted(p.name for p in found.alerts if p.name.startswith(prefix))
        words = " ".join(found.diagnosis) or "No alert."
        self.note(what, wanted, ", ".join(alerts) or "quiet", words)
        return found

    def note(self, what: str, wanted: str, got: str, words: str) -> None:
        """One line of the table."""
        is_right = wanted in got
        self.seen.append({"what": what, "wanted": wanted, "got": got, "right": is_right,
                          "words": words})  # fmt: skip
        print(f"{'right' if is_right else 'WRONG'}: {what}: {got}", file=sys.stderr)


def live(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Everything that happens, in order."""
    size, tests = (8, 6) if options.quick else (60, 40)
    rows = read_rows(options.data / SETS[0], 1)
    life = Life(folder, options)
    life.teach("a good round", "promoted", rows[:size], rows[200 : 200 + tests])
    drop(life.workspace, "more", rows[300 : 300 + size])
    life.observe("rows like those before wait", "quiet")
    chinese = [{"instruction": f"{n}：{CHINESE[n % 3]}", "output": "好"} for n in range(size)]
    drop(life.workspace, "more", chinese)
    life.observe("rows in another language wait", "drift.language")
    news = shuffled(rows[100 : 100 + size], 2)
    life.teach("a round with shuffled labels", "refused", news, rows[250 : 250 + tests])
    bad = life.teach(
        "a round with exchanged labels, nothing protected",
        "refused",
        exchanged(rows[100 : 100 + size]),
        rows[250 : 250 + tests],
        **UNPROTECTED,
    )
    run.promote(life.workspace, bad.version.id)
    (life.workspace.inbox / "reviews.jsonl").unlink(missing_ok=True)
    life.observe("the refused version released by hand", "decay.reviews")
    run.rollback(life.workspace)
    life.observe("after going back", "quiet")
    return life.seen


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    options = parser.parse_args()
    if not (options.data / SETS[0] / "train.json").exists():
        print(f"Skipped: {options.data / SETS[0]} holds no train.json, so there are no real rows.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        seen = live(options, options.folder or Path(temporary) / "bot")
    columns = ("what", "wanted", "got", "right", "words")
    print_table("What a person reads", columns, [[each[c] for c in columns] for each in seen])
    write_results(options.out, {"seen": seen})


if __name__ == "__main__":
    main()
