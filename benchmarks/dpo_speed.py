"""Speed of DPO beside TRL's DPOTrainer on the same pairs, and our preference losses beside TRL's.

LoRA r 8 on all linear layers of the embedded model, 4 pairs a step, beta 0.1; pairs of which one
side is longer than 512 tokens are left out, so that nobody cuts them. The losses are compared on
given log-probabilities: TRL's own functions against ours. Ours is `llama-factory train`.
Usage: dpo_speed.py [--data dpo_en_demo.json] [--steps 6] [--losses-only] [--quick] [--out FILE]
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
from training_jobs import (
    MAX_TOKENS,
    PEER_PROGRAMS,
    Job,
    Measured,
    Writer,
    examples_of,
    greatest_difference,
    new_job,
    our_run,
    peer_run,
    percent,
    run,
)

OURS = "this project"
PAIRS, LEARNING_RATE, BETA = 4, 5e-5, 0.1
TOLERANCE = 1e-6  # TRL computes ORPO's in float32
JOB = "DPO, LoRA r 8, all linear layers, SmolLM2-135M-Instruct, cutoff 512, 4 pairs a step"
TRL = {
    "TRL DPOTrainer, its defaults": "defaults",
    "TRL DPOTrainer, no recomputation": "best",
    "TRL DPOTrainer, no recomputation, reference beforehand": "precomputed",
}


def main() -> None:
    """Compare the losses, run every program in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="preference pairs; made-up ones where left out")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="auto", help="number format of all programs")
    parser.add_argument("--losses-only", action="store_true", help="no training")
    parser.add_argument("--quick", action="store_true", help="2 steps of our loop only, no losses")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats = 2, 1
    results: dict[str, Any] = {"job": JOB}
    if not options.quick:
        results["losses"] = compare_losses()
    if not options.losses_only:
        results["runs"] = compare_speed(options)
    common.write_results(options.out, results)


def compare_speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs a second of all programs on the same pairs."""
    job, rows = make_job(options.data, options.steps, options.dtype)
    programs = {OURS: partial(our_run, job, ours(job), rows)}
    if not options.quick:
        programs |= peers(job)
    measured = common.in_turn(programs, options.repeats)
    runs = [summary(name, results, job) for name, results in measured.items()]
    compare(runs)
    report(runs, job)
    return runs


def make_job(data: Path | None, steps: int, dtype: str) -> tuple[Job, list[dict[str, Any]]]:
    """The first pairs that fit: as text, and as messages."""
    writer = Writer()
    texts, rows, lengths = [], [], []
    for example in examples_of(data) if data else made_up(steps * PAIRS):
        if example.rejected is None:
            continue
        turns = [turn.to_json() for turn in example.messages]
        text = {"prompt": writer.prompt(turns[:-1])}
        for name, turn in (("chosen", example.messages[-1]), ("rejected", example.rejected)):
            text[name] = writer.answer(turn.content)
        sides = [writer.num_tokens(text["prompt"] + text[n]) for n in ("chosen", "rejected")]
        if max(sides) <= MAX_TOKENS:
            texts.append(text)
            rows.append(example.to_json())
            lengths.append(sum(sides))
        if len(rows) == steps * PAIRS:
            break
    about = {"rows": texts, "tokens": lengths, "beta": BETA}
    given = {"batch_size": PAIRS, "learning_rate": LEARNING_RATE}
    return new_job(writer, steps, dtype) | about | given, rows


def made_up(number: int) -> list[Any]:
    """Pairs for a run that needs no file."""
    from llama_factory.core.types import Example, Message

    return [
        Example(
            messages=(
                Message("user", f"How many are {i} and 1?"),
                Message("assistant", f"{i + 1}."),
            ),
            group="made up",
            file="",
            line=i + 1,
            rejected=Message("assistant", f"I do not know, perhaps {i}?"),
        )
        for i in range(number)
    ]


def ours(job: Job) -> dict[str, Any]:
    """Our settings of the objective."""
    return {"objective": {"type": "dpo", "beta": job["beta"], "loss": "sigmoid"}}


def peers(job: Job) -> dict[str, Callable[[], Measured]]:
    """TRL in several variants."""
    python = common.trl_python()
    return {
        name: partial(peer_run, python, "trl_dpo.py", job | {"variant": variant})
        for name, variant in TRL.items()
    }


def summary(name: str, results: list[Measured], job: Job) -> dict[str, Any]:
    """What one program came to: medians over the repeats, speeds without the first step."""
    one, size = results[0], job["batch_size"]
    pairs = size * (job["steps"] - 1)
    speeds = [pairs / result.seconds for result in results]
    # what is done before the first step, such as the reference's part, is work too
    whole = [size * job["steps"] / (each.ends[-1]) for each in results]
    expected = [sum(job["tokens"][i : i + size]) for i in range(0, len(job["tokens"]), size)]
    return {
        "program": name,
        "pairs_per_second": statistics.median(speeds),
        "spread": max(speeds) - min(speeds),
        "pairs_per_second_from_start": statistics.median(whole),
        "first_step_begins": statistics.median(each.first_begin for each in results),
        "same_tokens": not one.tokens or one.tokens == expected,
        "peak_memory_gb": max(each.peak_memory_gb for each in results),
        "losses": one.losses,
    }


def compare(runs: list[dict[str, Any]]) -> None:
    """Add what each program comes to beside ours."""
    ours = runs[0]
    for each in runs:
        each["ours_is_faster"] = ours["pairs_per_second"] / each["pairs_per_second"]
        each["share_of_memory"] = ours["peak_memory_gb"] / each["peak_memory_gb"]
        each["greatest_difference"] = greatest_difference(ours["losses"], each["losses"])


def report(runs: list[dict[str, Any]], job: Job) -> None:
    """Tables for people."""
    table = [
        (
            each["program"],
            f"{each['pairs_per_second']:.3f} +- {each['spread'] / 2:.3f}",
            f"{each['ours_is_faster']:.2f}",
            f"{each['pairs_per_second_from_start']:.3f}",
            f"{each['first_step_begins']:.1f}",
            f"{each['peak_memory_gb']:.2f}",
            percent(each["share_of_memory"]),
            percent(each["greatest_difference"], 3),
        )
        for each in runs
    ]
    names = (
        *("program", "pairs/s", "ours / this", "pairs/s from the start of the program"),
        *("first step begins (s)", "peak memory (GB)", "ours / this"),
        "greatest difference of the loss",
    )
    title = f"{len(job['rows'])} pairs of {sum(job['tokens'])} tokens, {job['dtype']}"
    common.print_table(title, names, table)
    losses = [(each["program"], *(f"{loss:.4f}" for loss in each["losses"])) for each in runs]
    steps = [str(step + 1) for step in range(job["steps"])]
    common.print_table("Loss of every step", ["program", *steps], losses)


def compare_losses() -> dict[str, dict[str, float]]:
    """Every preference loss by TRL and by us, on the same made-up log-probabilities."""
    job = made_up_log_probs()
    theirs = their_losses(job)
    found = {
        name: {"trl": value, "ours": our_loss(name, job), "difference": 0.0}
        for name, value in theirs.items()
    }
    for values in found.values():
        values["difference"] = abs(values["ours"] - values["trl"])
    common.print_table(
        "Losses on the same log-probabilities (orpo: the odds-ratio part; TRL takes the plain part "
        "over prompt and answer of all rows together, we over each answer)",
        ("loss", "TRL", "ours", "difference"),
        [
            (name, f"{v['trl']:.7f}", f"{v['ours']:.7f}", v["difference"])
            for name, v in found.items()
        ],
    )
    wrong = [name for name, values in found.items() if not values["difference"] < TOLERANCE]
    if wrong:
        raise SystemExit(f"Our loss is not TRL's: {', '.join(wrong)}. See the table above.")
    return found


def made_up_log_probs() -> Job:
    """Log-probabilities of the tokens of 16 answers, better and worse in turn, two models."""
    draw = random.Random(0)
    lengths = [draw.randint(1, 40) for _ in range(16)]

    def model(scale: float) -> list[list[float]]:
        return [[-scale * draw.random() - 1e-3 for _ in range(n)] for n in lengths]

    return {
        "beta": BETA,
        "simpo_beta": 2.0,
        "simpo_gamma": 0.5,
        "policy": model(2.0),
        "reference": model(2.5),
        "other_policy": model(3.0),
        "other_reference": model(3.5),
        "is_desirable": [draw.random() < 0.5 for _ in lengths],
    }


def their_losses(job: Job) -> dict[str, float]:
    """By TRL, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        ran = run([str(common.trl_python()), str(PEER_PROGRAMS / "trl_losses.py"), str(path)])
    losses: dict[str, float] = json.loads(ran.printed.strip().splitlines()[-1])
    return losses


def our_loss(name: str, job: Job) -> float:
    """The mean over the rows, by our objective."""
    import torch

    from llama_factory.training.objectives import OBJECTIVES, ForwardPass

    kind, _, form = name.partition(" ")
    given: dict[str, Any] = {"type": kind, "beta": job["beta"]}
    if kind == "simpo":
        given |= {"beta": job["simpo_beta"], "gamma": job["simpo_gamma"]}
    objective = OBJECTIVES.parse(given | ({"loss": form} if form else {}))
    scored = scored_of(job["policy"], job["reference"], job["is_desirable"])
    if kind == "kto":
        other = scored_of(job["other_policy"], job["other_reference"], job["is_desirable"])
        scored = ForwardPass(scored.batch, scored.outputs, objective.survey([other], {}))
    values = objective.losses(scored).values
    if kind == "orpo":
        values = values + (scored.sums / scored.num_trained)[0::2]
    assert values.dtype == torch.float64
    return float(values.mean())


def scored_of(
    policy: list[list[float]], reference: list[list[float]], is_desirable: list[bool]
) -> Any:
    """Answers as an objective sees them after the forward pass."""
    import torch

    from llama_factory.training.objectives import ForwardPass

    batch = SimpleNamespace(
        ids=torch.zeros(len(policy), 1),
        sequence_of=torch.tensor([i for i, row in enumerate(policy) for _ in row]),
        reference=torch.tensor([sum(row) for row in reference], dtype=torch.float64),
        is_desirable=torch.tensor(is_desirable),
    )
    outputs = torch.tensor([value for row in policy for value in row], dtype=torch.float64)
    return ForwardPass(batch, outputs)


if __name__ == "__main__":
    main()
