"""Two minutes before a release: is a training update still as much faster as it was?

The same updates of LoRA SFT on the embedded model by ours and by a plain loop (Transformers, PEFT,
torch's AdamW, rows padded to the longest, logits at every position), in turns in one process. Only
ratios count, so a busy or slow machine says the same; `--cpu-time` counts processor seconds, for a
machine that others use meanwhile. It ends with 1 where a ratio is below its bar or losses differ.

    speed_guard.py [--data alpaca_en_demo.json] [--updates 3] [--cpu-time] [--out FILE]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
from train_speed import BUILT_IN
from training_jobs import BATCH_SIZE, MAX_TOKENS, examples_of

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.padding import IGNORED
from llama_factory.model.settings import ModelSettings
from llama_factory.training.batch import Batch, make_batch
from llama_factory.training.items import Encoding, encode_all
from llama_factory.training.loop import Protection
from llama_factory.training.plan import plan_run
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import Run, start
from llama_factory.training.update import update

BAR = 1.5
"""Times that ours must be faster than the plain loop. Measured: see docs/log.md."""
QUICK_BAR = 1.05
"""Times that quick layers must be faster than the layers that they stand for."""
MOST_DIFFERENCE = 0.01
"""Between losses of the same update, as a share."""
RATE = 0.0
"""Nothing moves, so that all make the same update; it is computed all the same."""
Step = Callable[[int], float]


def main() -> None:
    """Time the updates and say whether they are fast enough."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=BUILT_IN, help="alpaca or messages rows")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = list(islice(examples_of(options.data), BATCH_SIZE * (options.updates + 1)))
    clock = time.process_time if options.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        run, batches, plain_batches = prepare(rows, options.updates + 1, Path(folder))
    steps = {
        "quick layers": quick_step(run, batches),
        "layers as they are": layers_step(run, plain_batches),
        "plain loop": plain_step(run, plain_batches),
    }
    seconds, losses = timed(steps, options.updates, clock)
    tokens = [batch.num_tokens for batch in batches[1:]]
    failed = report(seconds, losses, tokens, options.out)
    sys.exit(1 if failed else 0)


def prepare(
    rows: Sequence[Example], num_steps: int, folder: Path
) -> tuple[Run, list[Batch], list[Batch]]:
    """The run, and its updates as quick layers and as plain ones read them."""
    adapter = {"type": "lora", "rank": 8, "alpha": 16}
    model = adapt(
        ModelSettings(base_model="smollm2", adapter=adapter),
        None,
        options=EncodeOptions(MAX_TOKENS),
        seed=0,
    )
    settings = TrainingSettings(batch_size=BATCH_SIZE, max_steps=num_steps)
    run = start(model, settings, Protection())
    encoded = encode_all(Encoding(model, settings, folder), rows, Protection(), SILENT)
    plan = plan_run(encoded, settings)
    quick = run.batch_options(encoded.weights)
    plain = quick.__class__(quick.max_tokens, shares_prefixes=run.prefix.is_on)
    made = [[make_batch(refs, encoded.items, o) for refs in plan] for o in (quick, plain)]
    return run, made[0], made[1]


def quick_step(run: Run, batches: Sequence[Batch]) -> Step:
    """An update as a run makes it."""

    def step(number: int) -> float:
        with run.reading():
            return update(run, batches[number], RATE).numbers["loss"]

    return step


def layers_step(run: Run, batches: Sequence[Batch]) -> Step:
    """The same through the layers of Transformers and PEFT."""

    def step(number: int) -> float:
        with run.prefix.on():
            return update(run, batches[number], RATE).numbers["loss"]

    return step


def plain_step(run: Run, batches: Sequence[Batch]) -> Step:
    """The same as a short script would do it: one padded batch, a mask, all logits."""
    import torch

    network = run.model.network
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)

    def step(number: int) -> float:
        ids, mask, labels = padded(batches[number])
        loss = network(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def padded(batch: Batch) -> tuple[Any, Any, Any]:
    """[rows, seq] ids, mask and labels of all rows of an update."""
    import torch
    from torch.nn.functional import pad

    longest = max(micro.ids.shape[1] for micro in batch.micro_batches)
    ids, labels, masks = [], [], []
    for micro in batch.micro_batches:
        missing = longest - micro.ids.shape[1]
        ids.append(pad(micro.ids, (0, missing)))
        moved = pad(micro.targets[:, :-1], (1, missing), value=IGNORED)  # Transformers shifts
        labels.append(moved)
        places = torch.arange(longest)
        last = torch.where(moved != IGNORED, places, 0).amax(1, keepdim=True)
        masks.append((places <= last).long())
    return torch.cat(ids), torch.cat(masks), torch.cat(labels)


def timed(
    steps: dict[str, Step], num_updates: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and losses of every update but the first, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(num_updates + 1):
        for name, step in steps.items():
            started = clock()
            loss = step(number)
            if number:
                seconds[name].append(clock() - started)
                losses[name].append(loss)
    return seconds, losses


def report(
    seconds: dict[str, list[float]],
    losses: dict[str, list[float]],
    tokens: Sequence[int],
    out: Path | None,
) -> bool:
    """The table; whether something is slower than its bar, or computes something else."""
    ours, *_ = seconds
    table, ratios = [], {}
    for name, each in seconds.items():
        pairs = zip(each, seconds[ours], strict=True)
        ratios[name] = statistics.median(other / own for other, own in pairs)
        pairs = zip(losses[name], losses[ours], strict=True)
        difference = max(abs(a - b) / abs(b) for a, b in pairs)
        table.append((name, sum(tokens) / sum(each), ratios[name], difference))
    columns = ("program", "real tokens/s", "ours is faster by", "greatest difference of the loss")
    common.print_table("The same updates, in turns", columns, table)
    common.write_results(out, {"programs": [dict(zip(columns, row, strict=True)) for row in table]})
    slow = [n for n, bar in bars() if ratios[n] < bar]
    other = [name for name, *_, difference in table if difference > MOST_DIFFERENCE]
    for name in slow:
        print(f"\nToo slow: beside '{name}' only {ratios[name]:.2f} times as fast.")
    for name in other:
        print(f"\n'{name}' computes another loss.")
    return bool(slow or other)


def bars() -> tuple[tuple[str, float], ...]:
    """How much faster than what ours must be."""
    return (("layers as they are", QUICK_BAR), ("plain loop", BAR))


if __name__ == "__main__":
    main()
