"""Speed of LoRA SFT beside LLaMA-Factory and TRL: the same rows, the same losses, in one run.

LoRA r 8 on all linear layers of the embedded model, cutoff 512, 4 rows a step (engine.md's job);
rows that are longer are left out, so that nobody cuts them. Ours is `llama-factory train`.
Usage: train_speed.py [--data alpaca_en_demo.json] [--peers llamafactory trl] [--quick] [--out FILE]
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import roofline
from roofline import Ceiling
from training_jobs import (
    BATCH_SIZE,
    MAX_TOKENS,
    Job,
    Measured,
    Writer,
    examples_of,
    greatest_difference,
    new_job,
    our_run,
    peer_run,
    percent,
)

OURS = "this project"
BUILT_IN = Path(__file__).parents[1] / "src/llama_factory/continual/strategies/anchor.jsonl"
JOB = "LoRA r 8, all linear layers, SmolLM2-135M-Instruct, cutoff 512, 4 rows a step"


def main() -> None:
    """Run every program in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=BUILT_IN, help="alpaca or messages rows")
    parser.add_argument("--steps", type=int, default=11)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="auto", help="number format of all programs")
    parser.add_argument("--peers", nargs="*", default=["llamafactory", "trl"])
    parser.add_argument("--quick", action="store_true", help="2 steps of our loop only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats, options.peers = 2, 1, []
    job, rows = make_job(options.data, options.steps, options.dtype)
    share = sum(job["trained"]) / sum(job["tokens"])
    of_job = {"rank": 8, "trained_share": share, "dtype": job["dtype"]}
    rate = partial(roofline.measure, Path(job["model"]), **of_job)
    before = rate()
    measured = common.in_turn(programs(job, rows, options.peers), options.repeats)
    ceiling = max(before, rate(), key=lambda each: each.tokens_per_second)
    runs = [summary(name, results, job, ceiling) for name, results in measured.items()]
    compare(runs)
    report(runs, job, ceiling)
    common.write_results(options.out, {"job": JOB, "ceiling": ceiling.to_json(), "runs": runs})


def make_job(data: Path, steps: int, dtype: str) -> tuple[Job, list[dict[str, Any]]]:
    """The first rows of the file that fit: as text with their length in tokens, and as messages."""
    writer, texts, rows = Writer(), [], []
    tokens, trained = [], []
    for example in examples_of(data):
        turns = [turn.to_json() for turn in example.messages]
        prompt, answer = writer.prompt(turns[:-1]), writer.answer(turns[-1]["content"])
        whole = writer.num_tokens(prompt + answer)
        if whole <= MAX_TOKENS and len(turns) == 2:
            texts.append({"prompt": prompt, "answer": answer})
            rows.append({"messages": turns})
            tokens.append(whole)
            trained.append(whole - writer.num_tokens(prompt))
        if len(rows) == steps * BATCH_SIZE:
            break
    about = {"rows": texts, "tokens": tokens, "trained": trained}
    return new_job(writer, steps, dtype) | about, rows


LLAMA_FACTORY = {
    "LLaMA-Factory, its defaults": "defaults",
    "LLaMA-Factory, no recomputation": "best",
    "LLaMA-Factory, no recomputation, packed (other batches)": "packed",
}
TRL = {"TRL SFTTrainer, its defaults": "defaults", "TRL SFTTrainer, no recomputation": "best"}


def programs(
    job: Job, rows: list[dict[str, Any]], peers: list[str]
) -> dict[str, Callable[[], Measured]]:
    """What is measured, by name; the peers' environments are made here."""
    found: dict[str, Callable[[], Measured]] = {OURS: partial(our_run, job, {}, rows)}
    if "llamafactory" in peers:
        python = common.llama_factory_python()
        for name, variant in LLAMA_FACTORY.items():
            given = job | {"variant": variant}
            found[name] = partial(peer_run, python, "llamafactory_sft.py", given)
    if "trl" in peers:
        python = common.trl_python()
        for name, variant in TRL.items():
            found[name] = partial(peer_run, python, "trl_sft.py", job | {"variant": variant})
    return found


def summary(name: str, results: list[Measured], job: Job, ceiling: Ceiling) -> dict[str, Any]:
    """What one program came to: medians over the repeats, speeds without the first step."""
    size, one = job["batch_size"], results[0]
    expected = [sum(job["tokens"][i : i + size]) for i in range(0, len(job["tokens"]), size)]
    tokens = one.tokens or expected
    speeds = [sum(tokens[1:]) / result.seconds for result in results]
    speed = statistics.median(speeds)
    return {
        "program": name,
        "tokens_per_second": speed,
        "spread": max(speeds) - min(speeds),
        "share_of_ceiling": speed / ceiling.tokens_per_second,
        "padding": 1 - sum(tokens) / sum(one.padded) if one.padded else None,
        "same_tokens": tokens == expected,
        "first_step_begins": statistics.median(each.first_begin for each in results),
        "first_step_ends": statistics.median(each.ends[0] for each in results),
        "peak_memory_gb": max(each.peak_memory_gb for each in results),
        "losses": one.losses,
    }


def compare(runs: list[dict[str, Any]]) -> None:
    """Add what each program comes to beside ours."""
    ours = runs[0]
    for run in runs:
        run["ours_is_faster"] = ours["tokens_per_second"] / run["tokens_per_second"]
        run["share_of_memory"] = ours["peak_memory_gb"] / run["peak_memory_gb"]
        losses = run["losses"][:10]
        # other batches have other losses
        same = run["same_tokens"]
        run["greatest_difference"] = (
            greatest_difference(ours["losses"][:10], losses) if same else None
        )


def report(runs: list[dict[str, Any]], job: Job, ceiling: Ceiling) -> None:
    """Tables for people."""
    table = [
        (
            run["program"],
            f"{run['tokens_per_second']:.0f} +- {run['spread'] / 2:.0f}",
            f"{run['ours_is_faster']:.2f}",
            percent(run["share_of_ceiling"]),
            percent(run["padding"]),
            f"{run['first_step_begins']:.1f}",
            f"{run['first_step_ends']:.1f}",
            f"{run['peak_memory_gb']:.2f}",
            percent(run["share_of_memory"]),
            percent(run["greatest_difference"], 3),
        )
        for run in runs
    ]
    names = (
        *("program", "real tokens/s", "ours / this", "of the ceiling", "padding"),
        *("first step begins (s)", "ends (s)", "peak memory (GB)", "ours / this"),
        "greatest difference of the loss",
    )
    title = (
        f"{len(job['tokens'])} rows of {sum(job['tokens'])} tokens, {job['dtype']}; ceiling "
        f"{ceiling.tokens_per_second:.0f} tokens/s ({ceiling.mflop_per_token:.0f} MFLOP a token at "
        f"{ceiling.gflops:.0f} GFLOP/s)"
    )
    common.print_table(title, names, table)
    losses = [(run["program"], *(f"{loss:.4f}" for loss in run["losses"][:10])) for run in runs]
    steps = [str(step + 1) for step in range(len(losses[0]) - 1)]
    common.print_table("Loss of every step", ["program", *steps], losses)
    for run in runs:
        if not run["same_tokens"]:
            print(f"\n{run['program']}: other tokens in a step than ours, so no losses to compare.")


if __name__ == "__main__":
    main()
