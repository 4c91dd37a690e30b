"""Two rounds on labelled text: what is left of the first task after the second was learned.

A workspace learns class-balanced rows of DBpedia, then of AG News, with replay and without any
strategy. Usage: two_rounds.py PATH/TO/cl_benchmark [--rows 128] [--quick] [--out FILE]
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common

from llama_factory import run
from llama_factory.cli.terminal import TerminalProgress
from llama_factory.model.base import load_tokenizer
from llama_factory.model.source import resolve

TASKS = ("dbpedia", "agnews")
INSTRUCTION = "What is the topic of the following paragraph? Choose one from the option."
TEXT_TOKENS = 192
ARMS = {
    "no strategy": "strategies=[]",
    "replay": "strategies=[{type: replay, fraction: 0.25}]",
}
OPEN_GATE = ["gate.max_drop=1", "gate.max_guard_ratio=100"]
"""Both arms must go on from the first round, whatever they forgot."""


def main() -> None:
    """Learn the first round once, then the second one in every arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with dbpedia/ and agnews/")
    parser.add_argument("--rows", type=int, default=128, help="training rows a task")
    parser.add_argument("--test-rows", type=int, default=112, help="test rows a task")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few rows")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.test_rows, options.epochs = 16, 14, 1
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Run both arms and print the table."""
    settings = [
        f"training.epochs={options.epochs}",
        f"training.learning_rate={options.learning_rate}",
        "evaluation.max_new_tokens=12",
        "gate.metric=exact_match",
        *OPEN_GATE,
    ]
    first = folder / "first"
    run.init(first, "smollm2")
    learn(first, TASKS[0], [*settings, ARMS["replay"]], options)
    runs = []
    for name, strategy in ARMS.items():
        workspace = folder / name.replace(" ", "_")
        shutil.copytree(first, workspace)
        started = time.perf_counter()
        learn(workspace, TASKS[1], [*settings, strategy], options)
        runs.append(outcome(name, workspace, time.perf_counter() - started))
    show(runs, options)


def learn(workspace: Path, task: str, settings: list[str], options: argparse.Namespace) -> None:
    """One round on the rows of one task."""
    train, test = rows_of(options.data / task, options.rows, options.test_rows)
    for suffix, rows in (("", train), (".test", test)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (workspace / "inbox" / f"{task}{suffix}.jsonl").write_text(lines, encoding="utf-8")
    run.learn(workspace, settings, TerminalProgress())


def rows_of(folder: Path, num_train: int, num_test: int) -> tuple[list[Any], list[Any]]:
    """Class-balanced rows chosen by hash; where one file is missing, the other one is split."""
    labels = json.loads((folder / "labels.json").read_text())
    pools = {}
    for name in ("train", "test"):
        path = folder / f"{name}.json"
        pools[name] = json.loads(path.read_text()) if path.exists() else []
    if not pools["train"] or not pools["test"]:
        every = sorted(pools["train"] + pools["test"], key=digest)
        pools = {"train": every[: len(every) // 2], "test": every[len(every) // 2 :]}
    taught = balanced(pools["train"], labels, num_train)
    known = {row["sentence"] for row in taught}
    unseen = [row for row in pools["test"] if row["sentence"] not in known]
    tested = balanced(unseen, labels, num_test)
    return [prompted(row, labels) for row in taught], [prompted(row, labels) for row in tested]


def balanced(rows: list[Any], labels: list[str], count: int) -> list[Any]:
    """`count` rows, the classes as even as the count allows."""
    ordered = sorted({row["sentence"]: row for row in rows}.values(), key=digest)
    place: Counter[str] = Counter()
    ranked = []
    for row in ordered:
        ranked.append((place[row["label"]], labels.index(row["label"]), row))
        place[row["label"]] += 1
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])[:count]]


def digest(row: Any) -> str:
    """A fixed order that has nothing to do with the file's."""
    return hashlib.sha256(row["sentence"].encode()).hexdigest()


def prompted(row: Any, labels: list[str]) -> dict[str, str]:
    """The row in the benchmark's form: instruction, options, the text cut, the label."""
    tokenizer = load_tokenizer(resolve("smollm2")) if not CACHE else CACHE[0]
    CACHE[:] = [tokenizer]
    ids = tokenizer(row["sentence"].strip())["input_ids"][:TEXT_TOKENS]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    prompt = f"{INSTRUCTION}\nOption: {', '.join(labels)}\n{text}\nAnswer:"
    return {"instruction": prompt, "output": row["label"]}


CACHE: list[Any] = []


def outcome(name: str, workspace: Path, seconds: float) -> dict[str, Any]:
    """The matrix and the guard of one arm."""
    story = run.show(workspace, "v0002")
    matrix = next(m for m in story.matrices if m.metric == "exact_match")
    report = story.report
    guard = report["evaluation"]["guard_perplexity"] / report["base_guard_perplexity"]
    (after_one, _), (kept, learned) = matrix.row("v0001"), matrix.row("v0002")
    return {
        "strategy": name,
        "matrix": [matrix.row(v) for v in matrix.versions],
        "first_after_round_1": after_one,
        "first_after_round_2": kept,
        "second_after_round_2": learned,
        "aa": matrix.summary["average"],
        "bwt": matrix.summary["backward_transfer"],
        "perplexity_ratio": guard,
        "seconds": seconds,
        "steps": report["training"]["steps"],
        "tokens": report["training"]["tokens"],
    }


def show(runs: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table and write the results."""
    columns = (
        "strategy",
        "dbpedia after round 1",
        "dbpedia after round 2",
        "agnews after round 2",
        "average",
        "backward transfer",
        "general perplexity ratio",
        "steps",
    )
    keys = ("first_after_round_1", "first_after_round_2", "second_after_round_2", "aa", "bwt")
    table = [
        (r["strategy"], *(f"{r[k]:.3f}" for k in keys), f"{r['perplexity_ratio']:.2f}", r["steps"])
        for r in runs
    ]
    common.print_table(
        f"Exact match on {options.test_rows} unseen rows a task, {options.rows} taught",
        columns,
        table,
    )
    common.write_results(
        options.out, {"stream": list(TASKS), "model": "smollm2", "rows": options.rows, "runs": runs}
    )


if __name__ == "__main__":
    main()
