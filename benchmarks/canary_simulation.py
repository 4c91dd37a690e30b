"""How often four rules take a good candidate back, and how soon they notice a bad one. Simulated.

    python benchmarks/canary_simulation.py --out canary.json --picture canary.png

One conversation in ten goes to the candidate; every rule is looked at after each of its outcomes:
the e-process of this project, a z-test at 5 % looked at each time (from 20 outcomes on), an
asymptotic confidence sequence, and what Flagger does: windows of 20 outcomes, a failed check where
more than 5 % are bad, back after three of them. `not worse` is the e-process that promotes.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, write_results

from llama_factory.evaluation.e_process import EProcess, Stream, difference, not_worse_by, worse

ALPHA = 0.05
FRACTION = 0.1
RATES = ((0.02, 0.02), (0.1, 0.1), (0.02, 0.06), (0.02, 0.1), (0.02, 0.3), (0.1, 0.2))
"""Production's and the candidate's rate of bad conversations."""
PROMOTIONS = ((0.02, 0.02, 0.02), (0.02, 0.01, 0.02), (0.02, 0.04, 0.02), (0.5, 0.5, 0.1))
"""Production's rate, the candidate's, and how much more is tolerated."""
WINDOW, LIMIT, FAILED_CHECKS = 20, 0.05, 3
Block = tuple[int, int, int]
"""Production's outcomes before one of the candidate, the bad ones among them, and that outcome."""


def blocks(seed: list[int], rates: tuple[float, float], num: int) -> list[Block]:
    """The outcomes of one run, in order of arrival."""
    rng = np.random.default_rng(seed)
    counts = rng.geometric(FRACTION, num) - 1
    bads, outcomes = rng.binomial(counts, rates[0]), rng.binomial(1, rates[1], num)
    return list(zip(counts.tolist(), bads.tolist(), outcomes.tolist(), strict=True))


def first_by_e(process: EProcess, run: list[Block]) -> int | None:
    """After how many of the candidate's outcomes e exceeds 1/alpha."""
    for number, (count, bads, bad) in enumerate(run, start=1):
        process = process.add("production", bads, count) if count else process
        process = process.add("candidate", bad)
        if process.log_e > math.log(1 / ALPHA):
            return number
    return None


def first_by(rule: Callable[[Stream, Stream], bool], run: list[Block]) -> int | None:
    """After how many of the candidate's outcomes a rule on the counts decides."""
    ours = theirs = Stream()
    for number, (count, bads, bad) in enumerate(run, start=1):
        ours, theirs = ours.plus(count, bads), theirs.plus(1, bad)
        if rule(ours, theirs):
            return number
    return None


def z_test(ours: Stream, theirs: Stream) -> bool:
    """One-sided pooled z-test at 5 %."""
    if theirs.count < 20 or not ours.count:
        return False
    pooled = (ours.bad + theirs.bad) / (ours.count + theirs.count)
    error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / ours.count + 1 / theirs.count))
    return (theirs.rate - ours.rate) / error > 1.645


def confidence_sequence(ours: Stream, theirs: Stream) -> bool:
    """Whether the interval shown to people, at twice alpha, lies above 0."""
    low = difference(ours, theirs, 2 * ALPHA).low
    return low is not None and low > 0


def first_by_windows(run: list[Block]) -> int | None:
    """Flagger's way."""
    outcomes, failed = [bad for _, _, bad in run], 0
    for end in range(WINDOW, len(outcomes) + 1, WINDOW):
        failed += sum(outcomes[end - WINDOW : end]) / WINDOW > LIMIT
        if failed >= FAILED_CHECKS:
            return end
    return None


RULES: dict[str, Callable[[list[Block]], int | None]] = {
    "e-process": lambda run: first_by_e(worse(), run),
    "z-test at each look": lambda run: first_by(z_test, run),
    "confidence sequence": lambda run: first_by(confidence_sequence, run),
    "3 failed windows": first_by_windows,
}


def summary(firsts: list[int | None]) -> dict[str, Any]:
    """How many runs were decided, and after how many outcomes in the middle."""
    decided = [each for each in firsts if each is not None]
    median = int(np.median(decided)) if decided else None
    return {"decided": len(decided) / len(firsts), "median_outcomes": median}


def simulate(num_runs: int, num: int) -> list[dict[str, Any]]:
    """Every rule on the same runs."""
    results = []
    for rates in RATES:
        runs = [blocks([number, 1], rates, num) for number in range(num_runs)]
        for name, rule in RULES.items():
            firsts = [rule(run) for run in runs]
            head = {"rule": name, "production": rates[0], "candidate": rates[1]}
            results.append(head | summary(firsts) | {"firsts": firsts})
    return results


def simulate_promotions(num_runs: int, num: int) -> list[dict[str, Any]]:
    """The test that promotes."""
    results = []
    for ours, theirs, tolerated in PROMOTIONS:
        runs = [blocks([number, 2], (ours, theirs), num) for number in range(num_runs)]
        firsts = [first_by_e(not_worse_by(tolerated), run) for run in runs]
        head = {"production": ours, "candidate": theirs, "tolerated": tolerated}
        results.append(head | summary(firsts))
    return results


def show(results: list[dict[str, Any]], promotions: list[dict[str, Any]]) -> None:
    """Both tables."""
    rows = []
    for rates in RATES:
        mine = [r for r in results if (r["production"], r["candidate"]) == rates]
        kind = "good one taken back" if rates[0] == rates[1] else "bad one noticed"
        cells = [f"{100 * r['decided']:.1f} % ({r['median_outcomes'] or '-'})" for r in mine]
        rows.append([f"{100 * rates[0]:g} % -> {100 * rates[1]:g} %", kind, *cells])
    title = f"Runs decided, and the candidate's outcomes until then (median); alpha {ALPHA:g}"
    print_table(title, ["rates", "", *RULES], rows)
    promoted = [
        [p["production"], p["candidate"], p["tolerated"], p["decided"], p["median_outcomes"]]
        for p in promotions
    ]
    columns = ["production", "candidate", "tolerated", "promoted", "outcomes (median)"]
    print_table("Promotion: not worse by more than is tolerated", columns, promoted)


def draw(results: list[dict[str, Any]], num: int, path: Path) -> None:
    """Fraction of runs decided by the number of outcomes, a good candidate and a bad one."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    pairs = ((0.02, 0.02), "as good: 2 % and 2 %"), ((0.02, 0.06), "worse: 2 % and 6 %")
    for axis, (rates, title) in zip(axes, pairs, strict=True):
        for result in results:
            if (result["production"], result["candidate"]) == rates:
                firsts = np.array([each or np.inf for each in result["firsts"]])
                steps = np.arange(1, num + 1)
                axis.plot(steps, [(firsts <= n).mean() for n in steps], label=result["rule"])
        axis.axhline(ALPHA, color="grey", lw=0.8, ls=":")
        axis.set(title=title, xlabel="conversations of the candidate", ylim=(0, 1))
    axes[0].set_ylabel("runs in which it was taken back")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--outcomes", type=int, default=600, help="of the candidate, at most")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    runs, num = (4, 40) if options.quick else (options.runs, options.outcomes)
    results = simulate(runs, num)
    promotions = simulate_promotions(max(runs // 5, 2), 40 if options.quick else 2000)
    show(results, promotions)
    if options.picture:
        draw(results, num, options.picture)
    kept = [{k: v for k, v in each.items() if k != "firsts"} for each in results]
    values = {"runs": kept, "promotions": promotions, "num_runs": runs, "num_outcomes": num}
    write_results(options.out, values)


if __name__ == "__main__":
    main()
