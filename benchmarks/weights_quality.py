"""What each number format of `inference.weights` costs in quality, and how fast it is.

Teacher-forced: texts are scored, and the float32 model's own greedy answers are read again; an
answer is equal as long as every token of it is still the likeliest. Speed is processor time of one
thread, the least of some runs, over all linear layers once.
Usage: weights_quality.py FOLDER (with alpaca_en_demo.json and alpaca_zh_demo.json)
[--model smollm2] [--tokens 2048] [--prompts 20] [--weights float32 int8] [--quick] [--out FILE]
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parent))
import common
import torch
from torch import Tensor, nn

from llama_factory.inference.linear import Product, product
from llama_factory.inference.settings import Weights
from llama_factory.model.base import load_network, load_tokenizer
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve

FORMATS = [name for name in get_args(Weights) if name != "auto"]
LANGUAGES = ("en", "zh")
WIDTH = 256
"""Tokens of a text that are read at once."""
ANSWER = 32
"""Tokens of an answer."""
ROWS = (1, 2, 4, 8, 16, 32, 64)

Answers = list[tuple[int, Tensor]]


def main() -> None:
    """Measure every format and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds alpaca_en_demo.json, alpaca_zh_demo.json")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=2048, help="of text in each language")
    parser.add_argument("--prompts", type=int, default=20, help="a third of them Chinese")
    parser.add_argument("--weights", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.prompts, options.repeats = WIDTH, 2, 1
    folder = resolve(options.model)
    network = load_network(folder, ModelSettings(base_model=options.model, dtype="float32"))
    with torch.inference_mode():
        report(measure(network.cpu(), load_tokenizer(folder), options), options)


def measure(network: Any, tokenizer: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every format in turn, on the same texts and answers."""
    rows = {name: read(options.folder / f"alpaca_{name}_demo.json") for name in LANGUAGES}
    texts = {name: blocks(rows[name], tokenizer, options.tokens) for name in LANGUAGES}
    chinese = options.prompts // 3
    prompts = [row["instruction"] for row in rows["en"][-(options.prompts - chinese) :]]
    prompts += [row["instruction"] for row in rows["zh"][-chinese:]] if chinese else []
    answers = [greedy(network, tokenizer, prompt) for prompt in prompts]
    references = {name: log_probs(network, texts[name]) for name in LANGUAGES}
    layers = linear_layers(network)
    products = {
        name: [product(layer.weight, layer.bias, name) for layer in layers]
        for name in options.weights
    }
    speeds = milliseconds(layers, products, options.repeats)
    runs = []
    for name, applied in products.items():
        print(f"{name} ...", file=sys.stderr)
        run: dict[str, Any] = {"weights": name, "milliseconds": speeds[name]}
        run["bytes"] = sum(each.num_bytes for each in applied)
        with replaced(layers, applied):
            for language, reference in references.items():
                run[language] = compared(network, texts[language], reference)
            run.update(agreement(network, answers))
        runs.append(run)
    return runs


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a JSON file."""
    found: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def blocks(rows: Sequence[dict[str, str]], tokenizer: Any, wanted: int) -> Tensor:
    """Answers of the rows as one text, in blocks. [blocks, WIDTH] token ids."""
    ids: list[int] = []
    for row in rows:
        ids += tokenizer(row["output"] + "\n\n").input_ids
        if len(ids) >= wanted:
            break
    return torch.tensor(ids[: wanted // WIDTH * WIDTH]).view(-1, WIDTH)


def greedy(network: Any, tokenizer: Any, prompt: str) -> tuple[int, Tensor]:
    """The length of a prompt, and the ids of it and its greedy answer."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    whole = network.generate(**ids, max_new_tokens=ANSWER, do_sample=False)
    return ids["input_ids"].shape[1], whole[0]


def log_probs(network: Any, text: Tensor) -> Tensor:
    """[blocks, WIDTH, vocabulary] in nats."""
    return torch.stack([network(block[None]).logits[0].log_softmax(-1) for block in text])


def compared(network: Any, text: Tensor, reference: Tensor) -> dict[str, float]:
    """The mean nll of a text, and how far the distributions are from those of the reference."""
    nll = divergence = 0.0
    for block, wanted in zip(text, reference, strict=True):
        found = network(block[None]).logits[0].log_softmax(-1)
        nll -= found[:-1].gather(1, block[1:, None]).mean().item()
        divergence += (wanted.exp() * (wanted - found)).sum(-1).mean().item()
    return {"nll": nll / len(text), "kl": divergence / len(text)}


def agreement(network: Any, answers: Answers) -> dict[str, float]:
    """How much of the float32 model's answers stays the likeliest."""
    same = []
    for start, ids in answers:
        likeliest = network(ids[None]).logits[0, start - 1 : -1].argmax(-1)
        same.append(likeliest == ids[start:])
    return {
        "tokens_equal": torch.cat(same).float().mean().item(),
        "answers_equal": sum(bool(each.all()) for each in same) / len(same),
    }


def linear_layers(network: Any) -> list[nn.Linear]:
    """All of them, the output head too."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


@contextmanager
def replaced(layers: Sequence[nn.Linear], products: Sequence[Product]) -> Iterator[None]:
    """Let products take the place of layers."""
    for layer, applied in zip(layers, products, strict=True):
        layer.forward = applied  # type: ignore[method-assign]
    yield
    for layer in layers:
        del layer.forward


def milliseconds(
    layers: Sequence[nn.Linear], products: dict[str, list[Product]], repeats: int
) -> dict[str, dict[str, float]]:
    """By format and number of rows, in turns: processor time of one thread for all layers once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {name: {} for name in products}
    for _ in range(repeats + 1):
        for count in ROWS:
            inputs = [torch.randn(count, layer.in_features) for layer in layers]
            for name, applied in products.items():
                least = found[name].get(str(count), math.inf)
                found[name][str(count)] = min(least, timed(applied, inputs))
    torch.set_num_threads(threads)
    return found


def timed(products: Sequence[Product], inputs: Sequence[Tensor]) -> float:
    """Milliseconds of processor time for each product once."""
    start = time.thread_time()
    for apply, x in zip(products, inputs, strict=True):
        apply(x)
    return 1000 * (time.thread_time() - start)


def report(runs: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print both tables and write the results."""
    columns = ["weights", "MB", *(f"{part} {name}" for name in LANGUAGES for part in ("nll", "kl"))]
    quality = [
        [
            run["weights"],
            run["bytes"] / 1e6,
            *(f"{run[name][part]:.4f}" for name in LANGUAGES for part in ("nll", "kl")),
            run["tokens_equal"],
            run["answers_equal"],
        ]
        for run in runs
    ]
    common.print_table("Quality", [*columns, "tokens equal", "answers equal"], quality)
    speed = [[run["weights"], *run["milliseconds"].values()] for run in runs]
    common.print_table("Milliseconds by rows", ["weights", *map(str, ROWS)], speed)
    facts = {"model": options.model, "tokens": options.tokens, "prompts": options.prompts}
    common.write_results(options.out, {**facts, "runs": runs})


if __name__ == "__main__":
    main()
