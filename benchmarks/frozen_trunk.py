"""Processor seconds of an update whose lowest layers are frozen, with and without kept states.

LoRA SFT on the embedded model, rows of alpaca_en_demo or another file. In turns in one process: an
update as it is without `trunk_cache`, one that computes the states row by row (rows seen for the
first time), one whose states are read from disk. Weights do not move (rate 0), so that all make the
same update; losses are compared.

    frozen_trunk.py [--data FILE] [--updates 4] [--layers 9 15] [--dtype float32] [--out FILE]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
from train_speed import BUILT_IN
from training_jobs import MAX_TOKENS, examples_of

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.quick.trunk import Trunk
from llama_factory.model.settings import ModelSettings
from llama_factory.training.batch import Batch, make_batch
from llama_factory.training.items import Encoding, encode_all
from llama_factory.training.kept_states import KeptStates
from llama_factory.training.loop import Protection
from llama_factory.training.plan import plan_run
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import Run, start
from llama_factory.training.state_store import StateStore
from llama_factory.training.update import update

WAYS = ("without", "seen first", "seen before")
MOST_BYTES = 2**34
RATE = 0.0


def main() -> None:
    """Measure each number of frozen layers and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=BUILT_IN, help="alpaca or messages rows")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="times that each update is made")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--layers", type=int, nargs="+", default=[9, 15], help="frozen, of 30")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.updates, options.rounds, options.layers = 1, 1, options.layers[:1]
        options.batch_size = 2
    rows = list(islice(examples_of(options.data), options.batch_size * options.updates))
    found = [measured(rows, num_layers, options) for num_layers in options.layers]
    report(found)
    common.write_results(options.out, {"command": sys.argv[1:], "runs": found})


def measured(rows: Sequence[Example], num_layers: int, options: Any) -> dict[str, Any]:
    """Processor seconds of every update in every way, and the losses."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run, batches = prepare(rows, num_layers, folder, options)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        losses: dict[str, list[float]] = {way: [] for way in WAYS}
        with run.reading():
            one_update(run, batches, 0, "without", folder)  # warms up
            for number in range(options.rounds):
                for step in range(len(batches)):
                    for way in WAYS:
                        store = folder / f"states-{number}"
                        spent, loss = one_update(run, batches, step, way, store)
                        seconds[way].append(spent)
                        losses[way].append(loss)
    tokens = [batch.num_tokens for batch in batches] * options.rounds
    return {
        "frozen_layers": num_layers,
        "tokens": tokens,
        "seconds": seconds,
        "equal": losses["seen first"] == losses["seen before"],
        "loss_difference": max(
            abs(a - b) / a for a, b in zip(losses["without"], losses["seen before"], strict=True)
        ),
        "kept_bytes_a_token": kept_bytes(run),
    }


def prepare(
    rows: Sequence[Example], num_layers: int, folder: Path, options: Any
) -> tuple[Run, list[Batch]]:
    """A run whose lowest layers are frozen, and its updates."""
    adapter = {"type": "lora", "rank": 8, "alpha": 16}
    model = adapt(
        ModelSettings(
            base_model="smollm2", adapter=adapter, freeze_layers=num_layers, dtype=options.dtype
        ),
        None,
        options=EncodeOptions(MAX_TOKENS),
        seed=0,
    )
    settings = TrainingSettings(batch_size=options.batch_size, max_steps=options.updates)
    run = start(model, settings, Protection())
    encoded = encode_all(Encoding(model, settings, folder), rows, Protection(), SILENT)
    given = run.batch_options(encoded.weights)
    plan = plan_run(encoded, settings)
    return run, [make_batch(refs, encoded.items, given) for refs in plan]


def one_update(
    run: Run, batches: Sequence[Batch], step: int, way: str, store: Path
) -> tuple[float, float]:
    """Processor seconds and the loss; what is read or written on the way is counted."""
    with keeping(run, None if way == "without" else store) as kept:
        begun = time.process_time()
        if kept is not None:
            kept.load(step, batches[step])
            kept.begin(step)
        loss = update(run, batches[step], RATE).numbers["loss"]
        if kept is not None:
            kept.close()
        spent = time.process_time() - begun
        if kept is not None:
            is_first = way == "seen first"
            assert kept.num_computed == (kept.num_read if is_first else 0), (way, step)
    return spent, loss


@contextmanager
def keeping(run: Run, store: Path | None) -> Iterator[KeptStates | None]:
    """Take the states from a folder, or compute everything in place."""
    if store is None:
        yield None
        return
    layers = run.model.network.get_base_model().model.layers
    frozen = sum(not any(w.requires_grad for w in layer.parameters()) for layer in layers)
    kept = KeptStates(Trunk(run.model.network, frozen), StateStore(store, MOST_BYTES))
    run.quick.trunk = kept
    try:
        yield kept
    finally:
        run.quick.trunk = None


def kept_bytes(run: Run) -> int:
    """Bytes of a token's state."""
    table = run.model.network.get_input_embeddings().weight
    return int(table.shape[1] * table.element_size())


def report(found: Sequence[dict[str, Any]]) -> None:
    """Tokens a processor second of each way, and pairs of the same update."""
    for run in found:
        print(f"{run['frozen_layers']} of 30 layers frozen, {sum(run['tokens'])} tokens")
        whole = run["seconds"]["without"]
        for way in WAYS:
            seconds = run["seconds"][way]
            pairs = [a / b for a, b in zip(seconds, whole, strict=True)]
            low, high = min(pairs), max(pairs)
            print(
                f"  {way:12} {sum(run['tokens']) / sum(seconds):7.1f} tokens/s; an update takes "
                f"{statistics.median(pairs):.3f} of it without ({low:.3f} to {high:.3f})"
            )
        print(
            f"  losses with states computed and read are {'' if run['equal'] else 'NOT '}equal; "
            f"without, they differ by {run['loss_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
