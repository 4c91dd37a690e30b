"""How often the gate is wrong: versions whose true change is known, judged on few rows.

    python benchmarks/gate_errors.py --out gate.json

*Simulated*: rows of `results/continual/runs` (44 streams of four rounds each on the embedded model,
a score a row) are drawn so that two old tasks truly fall by 0, 2, 5, 10 or 20 points, and the gate
of this project judges some of them. *Real*: of the same 44 streams the last version, whose truth is
its change on all 100 rows of each of three old tasks; the gate sees a part of these rows.
*Learned*: rows of one real round (`data/learned_rows.json`: nats of the right answer before and
after), with their mean gain taken away (true gain 0) and as they are.

`point_estimate` is what the gate did before it tested anything.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, write_results

from llama_factory.evaluation.paired_tests import mean_bounds
from llama_factory.evaluation.statistics import Array
from llama_factory.rounds.calibrate import POLICIES, Decided, count_words, judge, simulate
from llama_factory.rounds.settings import GateSettings

ROOT = Path(__file__).parent
RUNS, LEARNED = ROOT / "results/continual/runs", ROOT / "data/learned_rows.json"
DROPS, SIZES, LIMITS = (0.0, 0.02, 0.05, 0.1, 0.2), (10, 20, 50, 100, 300), (0.1, 0.05)
SEEN = (10, 20, 50)
"""Rows of each old task that the gate sees of a real version, out of 100."""
METRIC = "exact_match"
MARGIN = 0.05
"""A real version is called good or bad where its truth is this far from the limit."""
WORDS = ("promoted", "held", "refused")


def real_versions() -> Iterator[dict[str, Array]]:
    """Of each stream, by old task: [100] change of each row from its own round to the last."""
    for path in sorted(RUNS.glob("labels-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if len(run["rounds"]) < 2:
            continue
        last = run["rounds"][-1]["scores"]
        changes = {}
        for number, each in enumerate(run["rounds"][:-1], start=1):
            for task in each["tasks"]:
                before, after = (np.array(s[task][METRIC]) for s in (each["scores"], last))
                if len(before) == len(after):
                    changes[f"v{number:04d} {task}"] = after - before
        if changes:
            yield changes


def settings_of(limit: float) -> GateSettings:
    """The gate's settings in one cell of the table."""
    return GateSettings(metric=METRIC, max_drop=limit)


def shares_of(found: Decided) -> dict[str, Any]:
    """One policy's cell."""
    return {"policy": found.policy, **{word: getattr(found, word) for word in WORDS}}


def simulated(pool: Array, num_draws: int) -> list[dict[str, Any]]:
    """The gate's words about two old tasks that truly fell by a known amount."""
    changes = dict.fromkeys(("v0001 a", "v0002 b"), pool)
    return [
        {"limit": limit, "rows": rows, "drop": drop} | shares_of(found)
        for limit in LIMITS
        for rows in SIZES
        for drop in DROPS
        for found in simulate(
            changes,
            drop,
            settings_of(limit),
            sizes=dict.fromkeys(changes, rows),
            num_draws=num_draws,
        )
    ]


def judged(versions: Sequence[dict[str, Array]], limit: float, draws: int) -> list[dict[str, Any]]:
    """The gate's words about real versions of which it sees a part of the rows."""
    rng = np.random.default_rng(0)
    worst = [max(-float(each.mean()) for each in changes.values()) for changes in versions]
    kinds = {
        "good": [v for v, w in zip(versions, worst, strict=True) if w <= limit - MARGIN],
        "bad": [v for v, w in zip(versions, worst, strict=True) if w >= limit + MARGIN],
    }
    cells = []
    for rows in SEEN:
        for kind, chosen in kinds.items():
            verdicts = [
                judge(
                    {t: rng.choice(e, rows, replace=False) for t, e in changes.items()},
                    settings_of(limit),
                )
                for changes in chosen
                for _ in range(draws)
            ]
            about = {"limit": limit, "rows": rows, "kind": kind, "versions": len(chosen)}
            cells += [about | shares_of(count_words(verdicts, 0.0, p)) for p in POLICIES]
    return cells


def learned(num_draws: int) -> list[dict[str, Any]]:
    """How often answers are called likelier when they truly are, and when they are not."""
    rows = np.array(json.loads(LEARNED.read_text(encoding="utf-8"))["nats"])
    gained, rng, cells = rows[:, 0] - rows[:, 1], np.random.default_rng(0), []
    nothing = gained - gained.mean()
    for kind, values in (("no gain", nothing), ("the real gain", gained)):
        for count in (5, 10, 20, 50):
            drawn = rng.choice(values, (num_draws, count))
            tests = [mean_bounds(each, 0.95).outcome(1e-12) for each in drawn]
            by_tests = {o: tests.count(o) / num_draws for o in ("passed", "undecided", "failed")}
            points = float((drawn.mean(1) > 0).mean())
            cells.append({"truth": kind, "rows": count, "point_estimate": points, **by_tests})
    return cells


def main() -> None:
    """Print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draws", type=int, default=300, help="versions a cell, at least 200")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    options = parser.parse_args()
    draws = 5 if options.quick else options.draws
    versions = list(real_versions())
    pool = np.concatenate([each for changes in versions for each in changes.values()])
    results = {
        "pool": {"rows": len(pool), "worse": float((pool < 0).mean()),
                 "better": float((pool > 0).mean())},
        "draws": draws,
        "simulated": simulated(pool, draws),
        "real": [c for limit in LIMITS for c in judged(versions, limit, 2 if draws < 20 else 20)],
        "learned": learned(draws),
    }  # fmt: skip
    show(results, len(versions))
    write_results(options.out, results)


def show(results: dict[str, Any], num_versions: int) -> None:
    """The tables for people."""
    for limit in LIMITS:
        cells = [cell for cell in results["simulated"] if cell["limit"] == limit]
        print_table(
            f"Two old tasks that truly fell, limit {limit:g}: promoted / held / refused in %",
            ("rows", "true drop", *POLICIES),
            [
                [rows, drop, *(_shares(cells, rows=rows, drop=drop, policy=p) for p in POLICIES)]
                for rows in SIZES
                for drop in DROPS
            ],
        )
        real = [cell for cell in results["real"] if cell["limit"] == limit]
        print_table(
            f"{num_versions} real versions, limit {limit:g}: promoted / held / refused in %",
            ("rows seen", "truth", "versions", *POLICIES),
            [
                [
                    rows,
                    kind,
                    _find(real, rows=rows, kind=kind, policy="hold")["versions"],
                    *(_shares(real, rows=rows, kind=kind, policy=p) for p in POLICIES),
                ]
                for rows in SEEN
                for kind in ("good", "bad")
            ],
        )
    columns = ("truth", "rows", "point_estimate", "passed", "undecided", "failed")
    print_table(
        "Learned: called likelier", columns, [[c[n] for n in columns] for c in results["learned"]]
    )


def _find(cells: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    return next(c for c in cells if all(c[name] == value for name, value in wanted.items()))


def _shares(cells: Sequence[dict[str, Any]], **wanted: Any) -> str:
    cell = _find(cells, **wanted)
    return " / ".join("-" if cell[w] is None else f"{100 * cell[w]:.0f}" for w in WORDS)


if __name__ == "__main__":
    main()
