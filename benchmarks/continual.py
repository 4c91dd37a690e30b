"""The continual benchmark: streams of tasks, method by method, and the table of what was kept.

Every method gets the same rows a step and steps a round. Results are written round by round into
`--out`, so that a killed benchmark goes on, and several processes may share the folder: start the
same command once a core, each with OMP_NUM_THREADS=1. What methods cost in time is measured in
turns by strategy_cost.py, since these runs meet a machine in different moods. Tuning goes by
held-out training rows of order 1, reports by test rows of the other orders.

    continual.py PATH/TO/cl_benchmark --general PATH/TO/llamafactory --tier standard --out FOLDER
    continual.py PATH/TO/llamafactory --stream skills --out FOLDER
    continual.py PATH/TO/cl_benchmark --tune --methods default --set training.learning_rate=3e-4
    continual.py --report --out FOLDER
"""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import continual_methods as methods
import continual_report
from continual_data import Place
from continual_runs import ALL, Bench, Clock, Run, perform, rounds_of
from continual_tiers import STREAMS, TIERS, Stream, Tier, cut_short
from filelock import FileLock, Timeout

from llama_factory.cli.terminal import TerminalProgress
from llama_factory.core.errors import FactoryError
from llama_factory.model import dtypes
from llama_factory.model.base import load_tokenizer
from llama_factory.model.source import resolve
from llama_factory.rounds.settings import LearningConfig


def main() -> None:
    """Run what is asked for, then report all that the folder holds."""
    options = parser().parse_args()
    if not options.report:
        if options.data is None:
            sys.exit("Name the folder of the stream's data, or --report what was run before.")
        try:
            run_all(options)
        except FactoryError as problem:
            sys.exit(str(problem))
    continual_report.report(options.out)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("data", type=Path, nargs="?", help="folder with the stream's files")
    made.add_argument("--general", type=Path, help="folder with general answers and plain text")
    made.add_argument("--stream", choices=STREAMS, default="labels")
    made.add_argument("--tier", choices=TIERS, default="standard")
    made.add_argument("--methods", nargs="+", help="default: those of the tier")
    made.add_argument("--orders", nargs="+", type=int, help="numbers of orders, from 1")
    made.add_argument("--seeds", nargs="+", type=int, default=[0])
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    made.add_argument("--preset", action="append", default=[], metavar="NAME=[STRATEGIES]")
    made.add_argument("--tune", action="store_true", help="order 1, on held-out training rows")
    made.add_argument("--tasks", type=int, help="only the first tasks")
    made.add_argument("--rows", type=int, help="training rows a task")
    made.add_argument("--test-rows", type=int, help="scored rows a task")
    made.add_argument("--epochs", type=float, help="passes over a task's rows")
    rate = methods.LEARNING_RATE
    made.add_argument("--learning-rate", type=float, default=rate, help="of all methods")
    made.add_argument("--model", default="smollm2")
    made.add_argument("--dtype", default="auto", help="number format, as model.dtype has it")
    made.add_argument("--out", type=Path, default=Path("benchmarks/.work/continual"))
    made.add_argument("--report", action="store_true", help="run nothing")
    return made


def run_all(options: argparse.Namespace) -> None:
    """All runs that are not finished and that no other process is at."""
    bench = bench_of(options)
    runs = list(runs_of(options, bench))
    bench.load()
    left = [run for run in runs if bench.cost_left(run)]
    bench.clock = Clock(sum(map(bench.cost_left, left)))
    for run in left:
        cost = bench.cost_left(run)
        if not performed(bench, run):
            bench.clock.total -= cost
            bench.progress.say(f"{run.name}: another process is at it.")


def performed(bench: Bench, run: Run) -> bool:
    """Whether a run was ours to make."""
    path = bench.out / "locks" / f"{run.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            perform(bench, run)
    except Timeout:
        return False
    return True


def bench_of(options: argparse.Namespace) -> Bench:
    """Where and on which rows."""
    tier = tier_of(options)
    tokenizer = load_tokenizer(resolve(options.model))
    place = Place(tier, tokenizer, "tuning" if options.tune else "test")
    general = options.general or (options.data if options.stream == "skills" else None)
    return Bench(options.out, stream_of(options), place, options.data, general, TerminalProgress())


def stream_of(options: argparse.Namespace) -> Stream:
    """The stream, cut where it is asked for."""
    return cut_short(STREAMS[options.stream], options.tasks)


def tier_of(options: argparse.Namespace) -> Tier:
    """The tier with what the options change."""
    wanted = {"rows": options.rows, "test_rows": options.test_rows, "epochs": options.epochs}
    return replace(
        TIERS[options.tier], **{name: value for name, value in wanted.items() if value is not None}
    )


def runs_of(options: argparse.Namespace, bench: Bench) -> Iterator[Run]:
    """The base model, then every seed, order and method; joint training has one order."""
    stream, known = bench.stream, methods.presets(options.preset)
    usual = [1] if options.tune else stream.reported[: bench.place.tier.num_orders]
    orders = options.orders or usual
    names = options.methods or TIERS[options.tier].methods
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"--methods: '{unknown[0]}' is not known. Known: {', '.join(known)}.")
    yield _run(options, bench, methods.BASE, ALL, seed=0)
    for seed in options.seeds:
        for order in orders:
            for name in names:
                number = ALL if name == methods.JOINT else order
                if number != ALL or order == orders[0]:
                    yield _run(options, bench, name, number, seed=seed)


def _run(options: argparse.Namespace, bench: Bench, name: str, order: int, *, seed: int) -> Run:
    tier, stream = bench.place.tier, bench.stream
    training = methods.training(tier, options.learning_rate, seed)
    tasks = stream.orders[max(order, 1) - 1]
    rounds = rounds_of(name, tasks)
    if name == methods.JOINT:
        training["max_steps"] = tier.steps * len(tasks)
    is_base = name == methods.BASE
    changes = () if is_base else tuple(options.changes)
    config = methods.settings(
        methods.presets(options.preset)[name],
        training,
        changes,
        base_model=options.model,
        num_rounds=len(tasks),
        dtype=options.dtype,
    )
    common = _common(options, bench, config)
    return Run(common, options.stream, order, rounds, name, changes, config)


def _common(options: argparse.Namespace, bench: Bench, config: LearningConfig) -> dict[str, Any]:
    """What all runs of a table share."""
    tier = vars(bench.place.tier)
    shown = {name: value for name, value in tier.items() if name not in ("methods", "num_orders")}
    general = "files" if bench.general else "built in"
    return {
        "split": bench.place.split,
        "tasks": list(bench.stream.tasks),
        "model": model_name(options.model),
        "dtype": dtypes.choose(config.model.dtype).name,
        "learning_rate": options.learning_rate,
        "guard": general,
        "steps": bench.place.tier.steps,
        **shown,
    }


def model_name(name: str) -> str:
    """Without the folders that lead to it."""
    return name.rstrip(os.sep).rpartition(os.sep)[2]


if __name__ == "__main__":
    main()
