"""How threads of OpenMP wait, alone on the machine and beside busy processes.

A thread that spins while it waits for the others is quick where every thread has a core of its own,
and takes the core from the very thread it waits for where it has not. Each policy runs in a process
of its own: updates of training, rows of evaluation and tokens of serving, a few seconds each, alone
and beside one and four processes that keep a core busy. The fair share of `t` threads beside `b`
busy processes on `c` cores is `t / (t + b)` of the cores. Usage: busy_machine.py [--model NAME]
[--seconds 10] [--repeats 2] [--quick] [--out FILE]
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from llama_factory.core.openmp import choose_spin_count, sharing_cores

POLICIES: dict[str, dict[str, str]] = {
    "as it comes": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 30,000": {"GOMP_SPINCOUNT": "30000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "as commands wait": {"AS_COMMANDS_WAIT": "1"},
}
BUSY = (0, 1, 4)
WORK = ("training", "evaluation", "serving")
Speeds = dict[str, dict[str, float]]
"""By number of busy processes and kind of work: units a second."""


def main() -> None:
    """Measure every policy in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--policies", nargs="*", default=list(POLICIES))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a smoke run of two policies")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.repeats, options.policies = 0.2, 1, list(POLICIES)[:2]
    if options.worker:
        print(json.dumps(measure(options.model, options.seconds)))
        return
    runs: dict[str, list[Speeds]] = defaultdict(list)
    for _ in range(options.repeats):
        for name in options.policies:
            runs[name].append(run_worker(POLICIES[name], options))
    report(runs, options)


def run_worker(policy: dict[str, str], options: argparse.Namespace) -> Speeds:
    """One policy, which is read when torch is imported, in a process of its own."""
    usual = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, __file__, "--worker", "--model", options.model]
    done = subprocess.run(
        [*command, "--seconds", str(options.seconds)],
        env={**usual, **policy},
        capture_output=True,
        text=True,
        check=True,
    )
    found: Speeds = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(model_name: str, seconds: float) -> Speeds:
    """Units a second of each kind of work, alone and beside busy processes."""
    as_commands = "AS_COMMANDS_WAIT" in os.environ and choose_spin_count(os.environ)
    work = prepare(model_name)
    for unit in work.values():
        unit()
    found: Speeds = {}
    with sharing_cores() if as_commands else nullcontext():
        for count in BUSY:
            with busy(count):
                found[str(count)] = {name: speed(unit, seconds) for name, unit in work.items()}
    return found


def speed(unit: Callable[[], float], seconds: float) -> float:
    """How many units are done a second: work goes on until the time is over."""
    started, done = time.perf_counter(), 0.0
    while (spent := time.perf_counter() - started) < seconds:
        done += unit()
    return done / spent


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that each keep a core busy."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=spin, daemon=True) for _ in range(count)]
    for each in others:
        each.start()
    time.sleep(1 if count else 0)
    try:
        yield
    finally:
        for each in others:
            each.kill()
            each.join()


def spin() -> None:
    """Never end."""
    while True:
        pass


def prepare(model_name: str) -> dict[str, Callable[[], float]]:
    """One unit of each kind of work, which gives its size."""
    import torch

    from llama_factory.core.types import Example
    from llama_factory.data.reading import read_examples
    from llama_factory.evaluation.answering import answer_rows
    from llama_factory.model.adapted import adapt
    from llama_factory.model.chat.encoding import EncodeOptions, encode
    from llama_factory.model.padding import pad
    from llama_factory.model.settings import ModelSettings

    settings = ModelSettings(base_model=model_name, dtype="float32")
    model = adapt(settings, None, options=EncodeOptions(256), seed=0)
    folder = Path(__file__).parents[1] / "src" / "llama_factory" / "demo"
    files = sorted(folder.glob("round1/*.jsonl"))
    rows = [row for file in files for row in read_examples(file) if isinstance(row, Example)][:8]
    codes = [encode(row, model.tokenizer, model.options) for row in rows]
    ids, labels = pad(codes)
    targets = labels.where(labels >= 0, -100)
    prompt = ids[:1, :32]

    def train() -> float:
        model.network.train()
        loss = model.network(input_ids=ids, labels=targets).loss
        loss.backward()
        for weight in model.trainable().values():
            weight.grad = None
        return float(ids.numel())

    def evaluate() -> float:
        model.network.eval()
        answers = list(answer_rows(model, rows, max_new_tokens=8, batch_tokens=2048))
        return float(len(answers))

    def serve() -> float:
        model.network.eval()
        with torch.no_grad():
            model.network.generate(input_ids=prompt, max_new_tokens=8, min_new_tokens=8)
        return 8.0

    return {"training": train, "evaluation": evaluate, "serving": serve}


def report(runs: dict[str, list[Speeds]], options: argparse.Namespace) -> None:
    """Speed alone beside the first policy's, and the part of the fair share that is kept."""
    import common
    import torch

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    middle = {name: medians(found) for name, found in runs.items()}
    first = middle[next(iter(middle))]["0"]
    lines = []
    for name, found in middle.items():
        alone = [found["0"][kind] / first[kind] for kind in WORK]
        kept = [
            found[str(count)][kind] / found["0"][kind] / share(threads, count, cores)
            for count in BUSY[1:]
            for kind in WORK
        ]
        lines.append([name, *alone, *kept])
    columns = [f"{kind} alone" for kind in WORK]
    columns += [f"{kind} beside {count}: of its share" for count in BUSY[1:] for kind in WORK]
    common.print_table("How threads wait", ["policy", *columns], lines)
    common.write_results(options.out, {"threads": threads, "policies": POLICIES, "runs": runs})


def medians(found: list[Speeds]) -> Speeds:
    """The middle of several runs."""
    return {
        count: {kind: statistics.median(run[count][kind] for run in found) for kind in WORK}
        for count in found[0]
    }


def share(threads: int, count: int, cores: int) -> float:
    """What a scheduler that is fair to threads leaves, as a part of what they get alone."""
    mine = min(threads, cores)
    return min(1.0, cores * mine / (mine + count) / mine)


if __name__ == "__main__":
    main()
