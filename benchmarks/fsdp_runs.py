"""Some updates of a small random model on 1 to 4 processes: losses, and the bytes each one holds.

Called by fsdp_shards.py.
"""

import multiprocessing
import os
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.chat.encoding import EncodedRow, EncodeOptions
from llama_factory.model.dtypes import Precision, settle
from llama_factory.model.sharding import held_bytes
from llama_factory.training.batch import make_batch
from llama_factory.training.items import NEW, Items, RowRef
from llama_factory.training.objectives.sft import PLAIN
from llama_factory.training.processes import process_group
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import start
from llama_factory.training.strategy import STRATEGIES, Protection, RunState, Strategy
from llama_factory.training.update import update

RATE = 1e-3
NUM_UPDATES, NUM_ROWS, LENGTH = 4, 12, 64
"""What is taught: updates, rows of each, tokens of the longest row."""
SECONDS = 600
"""A process that has not ended then is ended."""


@dataclass(frozen=True)
class RandomLlama:
    """Of SmolLM2-135M's width, with fewer layers and tokens."""

    width: int = 576
    inner: int = 1536
    num_layers: int = 4
    vocabulary: int = 8192

    def build(self) -> Any:
        """The same in every process."""
        torch.manual_seed(0)
        heads = max(1, self.width // 64)
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(
                "llama",
                vocab_size=self.vocabulary,
                hidden_size=self.width,
                intermediate_size=self.inner,
                num_hidden_layers=self.num_layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                tie_word_embeddings=True,
            )
        )


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        trains: an adapter's name.
        count: of processes.
        llama: what is trained.
    """

    trains: str
    count: int
    llama: RandomLlama = RandomLlama()


class Weighing(Strategy):
    """Counts the bytes of weights and gradients in this process, when gradients are whole."""

    reads_weights = False

    def adjust_gradients(self, model: AdaptedModel, state: RunState) -> None:
        """See `Strategy.adjust_gradients`."""
        weights = list(model.network.parameters())
        gradients = [each.grad for each in weights if each.grad is not None]
        state.counts["weights"] = sum(map(held_bytes, weights))
        state.counts["gradients"] = sum(map(held_bytes, gradients))


def run_together(job: Job) -> dict[str, Any]:
    """Losses, gradient norms and the bytes of every process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    queue = context.Queue()
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    places |= {"WORLD_SIZE": str(job.count), "LOCAL_WORLD_SIZE": str(job.count)}
    crew = [
        context.Process(
            target=_work, args=(queue, job, places | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        )
        for rank in range(job.count)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join(SECONDS)
        process.kill()
    if any(process.exitcode for process in crew):
        raise SystemExit(f"{job}: a process failed; what it said stands above.")
    found = [queue.get() for _ in crew]
    return asdict(job) | min(found, key=lambda each: int(each["rank"]))


def _work(queue: Any, job: Job, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    STRATEGIES.register("weighing")(Weighing)  # in this process alone
    with process_group(timeout=SECONDS) as processes:
        found = _train(job)
        held = processes.gather(found.pop("held"))
        queue.put(found | {"rank": processes.rank, "held": held})


def _train(job: Job) -> dict[str, Any]:
    model = _model(job)
    settings = TrainingSettings(
        parallel="fsdp", micro_batch_tokens=2 * LENGTH, learning_rate=RATE, quick_layers=False
    )
    run = start(model, settings, Protection((Weighing(),)))
    rows = {NEW: Items(tuple((each,) for each in _rows(job.llama)), PLAIN)}
    numbers = []
    for step in range(NUM_UPDATES):
        refs = [RowRef(NEW, NUM_ROWS * step + place) for place in range(NUM_ROWS)]
        numbers.append(update(run, make_batch(refs, rows, run.batch_options({})), RATE).numbers)
    kept = [
        value
        for state in run.optimizer.optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    held = dict(run.states[0].counts) | {"optimizer": sum(map(held_bytes, kept))}
    return {
        "losses": [each["loss"] for each in numbers],
        "gradient_norms": [each["gradient_norm"] for each in numbers],
        "held": held,
    }


def _model(job: Job) -> AdaptedModel:
    network = job.llama.build()
    adapter = ADAPTERS.parse({"type": "lora", "rank": 16} if job.trains == "lora" else job.trains)
    network = adapter.apply(network, freeze_layers=0, seed=0)
    precision = Precision(torch.float32, "as set")
    settle(network, precision)
    return AdaptedModel(network, None, "", EncodeOptions(LENGTH), precision)  # type: ignore[arg-type]


def _rows(llama: RandomLlama) -> list[EncodedRow]:
    """Of different lengths, taught but for their first tokens."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for place in range(NUM_UPDATES * NUM_ROWS):
        length = LENGTH - 3 * (place % NUM_ROWS)
        ids = torch.randint(llama.vocabulary, (length,), generator=generator).tolist()
        rows.append(EncodedRow(tuple(ids), tuple(at > length // 4 for at in range(length))))
    return rows


def _free_port() -> str:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
