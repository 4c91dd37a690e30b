"""Rows answered a second: the program's batched answers beside a plain one-row `generate` loop.

Both answer the same short rows greedily with the same model, in turns; equal answers are counted.
Usage: evaluation_speed.py ROWS.json [--rows 1000] [--max-new-tokens 32] [--quick] [--out FILE]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import torch
from transformers.utils import logging as transformers_logging

from llama_factory.core.types import Example
from llama_factory.data.reading import read_examples
from llama_factory.evaluation.answering import answer_rows, end_tokens
from llama_factory.model.adapted import AdaptedModel, adapt
from llama_factory.model.chat.encoding import EncodeOptions, prompt_ids
from llama_factory.model.settings import ModelSettings

SHORT_TOKENS = 96
"""Longest prompt of a short row, with the chat template's marks."""

Answers = list[str]


def main() -> None:
    """Answer the rows both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows_file", type=Path, help="rows with prompts: any format that is read")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument(
        "--parts", type=int, default=3, help="both ways take turns in so many parts"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few rows")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.max_new_tokens, options.parts = 6, 4, 1
    settings = ModelSettings(base_model=options.model, dtype="float32")
    model = adapt(settings, None, options=EncodeOptions(2048), seed=0)
    model.network.eval()
    rows = short_rows(options.rows_file, model, options.rows)
    report(compare(model, rows, options), rows, options)


def short_rows(path: Path, model: AdaptedModel, wanted: int) -> list[Example]:
    """The first rows whose prompts are short, over again where the file has too few."""
    found = [row for row in read_examples(path) if isinstance(row, Example)]
    ids = [prompt_ids(row, model.tokenizer, model.options) for row in found]
    short = [
        row
        for row, each in zip(found, ids, strict=True)
        if isinstance(each, list) and len(each) <= SHORT_TOKENS
    ]
    if not short:
        sys.exit(f"{path}: no row has a prompt of at most {SHORT_TOKENS} tokens.")
    return (short * (1 + wanted // len(short)))[:wanted]


def compare(
    model: AdaptedModel, rows: Sequence[Example], options: argparse.Namespace
) -> dict[str, Any]:
    """Both ways on the same parts of the rows, in turns, so that a busy machine slows both."""
    ways: dict[str, Callable[..., Answers]] = {"plain loop": plain, "batched": batched}
    for way in ways.values():
        way(model, rows[:1], 2)  # the first pass of a process is slow
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, Answers] = {name: [] for name in ways}
    size = -(-len(rows) // options.parts)
    for start in range(0, len(rows), size):
        for name, way in ways.items():
            started = time.perf_counter()
            given[name] += way(model, rows[start : start + size], options.max_new_tokens)
            seconds[name].append(time.perf_counter() - started)
    return {"seconds": seconds, "given": given}


@torch.no_grad()
def plain(model: AdaptedModel, rows: Sequence[Example], limit: int) -> Answers:
    """One row at a time by Transformers' `generate`, as most scripts do it."""
    transformers_logging.set_verbosity_error()
    texts = []
    for row in rows:
        ids = torch.tensor([prompt_ids(row, model.tokenizer, model.options)])
        out = model.network.generate(
            input_ids=ids.to(model.device),
            attention_mask=torch.ones_like(ids).to(model.device),
            max_new_tokens=limit,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
            eos_token_id=sorted(end_tokens(model)),
        )
        new = out[0, ids.shape[1] :]
        texts.append(str(model.tokenizer.decode(new, skip_special_tokens=True)).strip())
    return texts


def batched(model: AdaptedModel, rows: Sequence[Example], limit: int) -> Answers:
    """As evaluation answers them."""
    given = dict(answer_rows(model, rows, max_new_tokens=limit))
    return [given[number].text for number in range(len(rows))]


def report(found: dict[str, Any], rows: Sequence[Example], options: argparse.Namespace) -> None:
    """The table and the results as JSON."""
    runs, given = [], found["given"]
    size = -(-len(rows) // options.parts)
    for name, seconds in found["seconds"].items():
        sizes = [len(rows[i : i + size]) for i in range(0, len(rows), size)]
        rates = [num / each for num, each in zip(sizes, seconds, strict=True)]
        runs.append(
            {
                "program": name,
                "rows_per_second": len(rows) / sum(seconds),
                "median_part": statistics.median(rates),
                "slowest_part": min(rates),
                "fastest_part": max(rates),
                "seconds": sum(seconds),
            }
        )
    times_faster = runs[1]["rows_per_second"] / runs[0]["rows_per_second"]
    pairs = zip(given["plain loop"], given["batched"], strict=True)
    num_equal = sum(one == other for one, other in pairs)
    columns = list(runs[0])
    title = f"{len(rows)} short rows, at most {options.max_new_tokens} new tokens"
    common.print_table(title, columns, [[run[name] for name in columns] for run in runs])
    print(f"\n{times_faster:.1f} times faster; {num_equal} of {len(rows)} answers are equal.")
    results = {"job": title, "runs": runs, "times_faster": times_faster, "num_equal": num_equal}
    common.write_results(options.out, {**results, "num_rows": len(rows)})


if __name__ == "__main__":
    main()
