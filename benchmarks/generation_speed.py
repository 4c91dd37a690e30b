"""How fast answers are made: this project's server beside others', and each part of the engine.

Every server is a process of its own with the same threads and the same questions; while one is
measured the others are halted, and they take turns. llama.cpp reads the same weights in 4 bits from
its own file, this project and Transformers in float32, and in bfloat16 where the processor is fast
at it. The limit is one read of the weights a pass at the bandwidth measured here, or the products
of all rows at the best rate measured here.
Usage: generation_speed.py [--parts throughput adapters beside chat evaluation] [--rows ROWS.json]
[--programs NAME ...] [--quick] [--out FILE]
"""

import argparse
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import answer_load
import answer_servers
import common
import decoding_limit
import evaluated_rows
from answer_servers import Process, Program
from answer_workspace import make_versions

from llama_factory.model.dtypes import fast_bfloat16
from llama_factory.model.source import resolve

WORK = common.ROOT / ".work" / "generation"
PARTS = ("throughput", "adapters", "beside", "chat", "evaluation")
FLOAT32, BFLOAT16, INT8 = "ours, float32", "ours, bfloat16", "ours, int8"
TRANSFORMERS = {
    "transformers serve": "float32",
    "transformers serve, bfloat16": "bfloat16",
}
OTHERS = (*TRANSFORMERS, "llama.cpp")
SETTINGS = {
    FLOAT32: ("model.dtype=float32", "inference.weights=float32"),
    BFLOAT16: ("model.dtype=bfloat16",),
    INT8: ("model.dtype=float32", "inference.weights=int8"),
}
PROGRAMS = (*SETTINGS, *OTHERS)
WEIGHT_BYTES = {FLOAT32: 4, BFLOAT16: 2, INT8: 1}
"""What makes our server compute in a format; `--set` is put before each."""

REQUESTS = {1: 4, 4: 2, 16: 2, 64: 1}
"""Requests of each client, by the number of clients."""

FOR_ALL = ("serving.max_queue=256", "serving.max_running=64", "serving.max_tokens=512")
"""As many at once as llama.cpp is given slots."""


def main() -> None:
    """Measure the parts that are wanted and print their tables."""
    options = parse()
    results: dict[str, Any] = {"threads": options.threads, "max_tokens": options.max_tokens}
    model = resolve(options.model)
    limit = decoding_limit.measure(model, options.threads)
    with started(options, model) as processes:
        for part, work in WORKS.items():
            if part in options.parts:
                results[part] = work(processes, options)
    if "evaluation" in options.parts:
        results["evaluation"] = evaluated_rows.compare(options, WORK)
    limit = limit.better(decoding_limit.measure(model, options.threads))
    results["limit"] = limit.to_json()
    for run in results.get("throughput", []):
        run.update(limit.shares(run, WEIGHT_BYTES.get(run["program"])))
    report(results)
    common.write_results(options.out, results)


def parse() -> argparse.Namespace:
    """What is wanted; `--quick` measures this project alone, in a few tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2", help="llama.cpp needs smollm2")
    usual = [name for name in PROGRAMS if fast_bfloat16() or "bfloat16" not in name]
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=usual)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--clients", type=int, nargs="+", default=list(REQUESTS))
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--asked", type=int, default=60, help="short questions beside others")
    parser.add_argument("--turns", type=int, default=10, help="of a chat")
    parser.add_argument("--rows", type=Path, help="file of rows that evaluation answers")
    parser.add_argument("--num-rows", type=int, default=1000)
    parser.add_argument("--plain-rows", type=int, default=200, help="of those, by a plain loop")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="of our server")
    parser.add_argument("--quick", action="store_true", help="a smoke run of this project alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.programs, options.clients, options.max_tokens = [FLOAT32], [1, 2], 6
        options.repeats, options.asked, options.turns = 1, 2, 3
        options.num_rows, options.plain_rows = 4, 2
    return options


@contextmanager
def started(options: argparse.Namespace, model: Path) -> Iterator[dict[str, Process]]:
    """The servers that are wanted, halted; none where only evaluation is."""
    if not set(options.parts) & set(WORKS):
        yield {}
        return
    shutil.rmtree(WORK, ignore_errors=True)
    programs = [program(name, options, model) for name in options.programs]
    with ExitStack() as stack:
        yield stack.enter_context(answer_servers.halted(programs, WORK / "logs"))


def program(name: str, options: argparse.Namespace, model: Path) -> Program:
    """A server of the comparison; ours has a workspace of its own with four versions."""
    if name in SETTINGS:
        workspace = make_versions(WORK / name.rpartition(" ")[2], model, number=4)
        changes = (*SETTINGS[name], *FOR_ALL, *options.changes)
        return answer_servers.ours(name, workspace, changes, options.threads)
    if name in TRANSFORMERS:
        return answer_servers.transformers_serve(name, model, options.threads, TRANSFORMERS[name])
    return answer_servers.llama_cpp(answer_servers.embedded_gguf(), options.threads)


def throughput(processes: dict[str, Process], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All servers at each number of clients."""
    found = []
    for num_clients in options.clients:
        base = {name: (lambda p=p: p.load(options.max_tokens)) for name, p in processes.items()}
        runs = in_turns(processes, base, num_clients, options)
        found += [summary(name, num_clients, each, processes) for name, each in runs.items()]
    return found


def in_turns(
    processes: dict[str, Process],
    loads: dict[str, Callable[[], answer_load.Load]],
    num_clients: int,
    options: argparse.Namespace,
) -> dict[str, list[list[answer_load.Timing]]]:
    """Ask all in turns, with the same questions in a turn and others in the next.

    Args:
        processes: by the name of the load.
        loads: how each is asked.
        num_clients: at once.
        options: repeats.
    """
    turn = dict.fromkeys(loads, 0)
    each = REQUESTS.get(num_clients, 1)

    def measured(name: str) -> list[answer_load.Timing]:
        first = num_clients * each * turn[name] + 1000 * num_clients
        turn[name] += 1
        with answer_servers.alone(processes[name]):
            return answer_load.run(loads[name](), num_clients, each, first)

    ways = {name: (lambda name=name: measured(name)) for name in loads}
    return common.in_turn(ways, options.repeats)


def summary(
    name: str,
    num_clients: int,
    runs: Sequence[Sequence[answer_load.Timing]],
    processes: dict[str, Process],
) -> dict[str, Any]:
    """Median and spread of one program at one number of clients."""
    rates = [answer_load.rate(timings) for timings in runs]
    whole = [timing for timings in runs for timing in timings]
    firsts = [timing.first for timing in whole]
    passes = answer_load.gaps(whole)
    return {
        "program": name,
        "clients": num_clients,
        "tokens_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "first_token_p50": answer_load.quantile(firsts, 0.5),
        "first_token_p99": answer_load.quantile(firsts, 0.99),
        "pass_seconds": statistics.median(passes) if passes else None,
        "answers": len(whole),
        "tokens_an_answer": sum(timing.tokens for timing in whole) / len(whole),
        "memory_mb": processes[name].memory_mb,
    }


def adapters(processes: dict[str, Process], options: argparse.Namespace) -> list[dict[str, Any]]:
    """16 clients on the released version, on one other version, and on four mixed."""
    process, num_clients = mine(processes), max(n for n in options.clients if n <= 16)
    versions = [f"v{number:04}" for number in range(1, 5)]
    asked = {"released version alone": ["production"], "one version alone": versions[:1]}
    asked["four versions mixed"] = versions
    with answer_servers.alone(process):
        for models in asked.values():  # loads them
            answer_load.run(process.load(2, models), len(models), 1, first=80_000)
    tokens = options.max_tokens
    loads = {name: (lambda m=m: process.load(tokens, m)) for name, m in asked.items()}
    same = dict.fromkeys(asked, process)
    runs = in_turns(same, loads, num_clients, options)
    return [summary(name, num_clients, each, same) for name, each in runs.items()]


def mine(processes: dict[str, Process]) -> Process:
    """Our server in float32, else the one that runs."""
    ours = [process for name, process in processes.items() if name in SETTINGS]
    return processes.get(FLOAT32) or ours[0]


def beside(processes: dict[str, Process], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time to the first token while 16 others are answered."""
    found = []
    for name, process in processes.items():
        with answer_servers.alone(process):
            others = min(16, max(options.clients))
            load = process.load(options.max_tokens)
            times = answer_load.beside_others(load, others, options.asked)
        found.append({"program": name, "others": others, **times})
    return found


def chat(processes: dict[str, Process], options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is read anew, and the time to the first token, turn by turn of one conversation."""
    found = []
    for name, process in processes.items():
        with answer_servers.alone(process):
            turns = answer_load.chat(process.load(min(32, options.max_tokens)), options.turns)
        before = [0, *(turn.prompt_tokens + turn.tokens for turn in turns)]
        for number, (turn, known) in enumerate(zip(turns, before, strict=False), 1):
            read = None if turn.cached_tokens is None else turn.prompt_tokens - turn.cached_tokens
            found.append(
                {
                    "program": name,
                    "turn": number,
                    "prompt_tokens": turn.prompt_tokens,
                    "new": turn.prompt_tokens - known,
                    "read": read,
                    "first_token": turn.first,
                }
            )
    return found


WORKS = {"throughput": throughput, "adapters": adapters, "beside": beside, "chat": chat}


def report(results: dict[str, Any]) -> None:
    """Tables for people, and what they come to."""
    for part in PARTS:
        if rows := results.get(part):
            shown = [row for row in rows if row.get("turn") in (None, 1, 2, 10)]
            columns = list(dict.fromkeys(name for row in shown for name in row))
            common.print_table(part, columns, [[r.get(c) for c in columns] for r in shown])
    results["ratios"] = ratios(results)
    for name, value in results["ratios"].items():
        print(f"\n{name}: {value:.2f}")


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Our speed divided by others', and four versions by one."""
    speed = {
        (run["program"], run["clients"]): run["tokens_per_second"]
        for part in ("throughput", "adapters")
        for run in results.get(part, [])
    }
    found = {
        f"{ours} / {other}, {clients} clients": speed[ours, clients] / speed[other, clients]
        for ours in SETTINGS
        for other, clients in speed
        if other in OTHERS and (ours, clients) in speed
    }
    for name, clients in speed:
        if name == "four versions mixed":
            one = speed["one version alone", clients]
            found["four versions mixed / one alone"] = speed[name, clients] / one
    for run in results.get("evaluation", []):
        found[f"evaluation / {run['program']}"] = (
            results["evaluation"][0]["rows_per_second"] / run["rows_per_second"]
        )
    return found


if __name__ == "__main__":
    main()
