"""What each of N processes holds of a model under `training.parallel: fsdp`: by plan, and by fact.

First a small random model trains on 1 to 4 processes (gloo, this machine): bytes and losses. Then
larger models are built without numbers and really divided by `fully_shard`, of which one rank of N
is looked at; no other process is started. Usage: fsdp_shards.py [--quick] [--out FILE]
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
import common
from fsdp_runs import Job, RandomLlama, run_together

from llama_factory.model.base import loaded_dtype
from llama_factory.model.dtypes import choose, settle
from llama_factory.model.known_configs import config_of
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shape import shape_of
from llama_factory.model.sharding import held_bytes
from llama_factory.training.memory import Load, Sharing, memory_needed
from llama_factory.training.parallel.fsdp import DIMENSION, Fsdp

ADAM = 2
"""Moments of a trained weight, each of its size."""
CASES = [
    *(("smollm2-135m", how, "float32", n) for how in ("full", "lora") for n in (1, 2, 3, 4)),
    ("qwen2.5-7b", "lora", "bfloat16", 8),
    ("qwen2.5-7b", "full", "bfloat16", 8),
    ("qwen2.5-7b", "full", "pure_bfloat16", 8),
    ("llama3.1-70b", "lora", "bfloat16", 8),
]
JOBS = [Job(how, n) for how in ("full", "lora") for n in (1, 2, 3, 4)]
QUICK = [Job("full", n, RandomLlama(64, 128, 2, 320)) for n in (1, 2)]


@dataclass(frozen=True)
class Held:
    """Bytes of one process.

    Attributes:
        weights: all of them, or its part.
        gradients: of those that train.
        optimizer: AdamW's moments.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Together."""
        return self.weights + self.gradients + self.optimizer


class Root(nn.Module):
    """Stands where the objective's module does."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network


def by_fact(settings: ModelSettings, count: int) -> Held:
    """What the first of some processes holds, in bytes of its parts."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(
            config_of(settings.base_model), dtype=loaded_dtype(settings)
        )
        network = settings.adapter.apply(network, freeze_layers=0, seed=0)
        settle(network, choose(settings.dtype))
    if count > 1:
        with _pretending(count):
            mesh = init_device_mesh("cpu", (count,), mesh_dim_names=(DIMENSION,))
            Fsdp()._shard(Root(network), mesh, keeps_trained=False)
            return _held(network)
    return _held(network)


def _held(network: Any) -> Held:
    trained = sum(held_bytes(each) for each in network.parameters() if each.requires_grad)
    return Held(sum(map(held_bytes, network.parameters())), trained, ADAM * trained)


def by_plan(settings: ModelSettings, count: int) -> Held:
    """What `llama-factory plan` says of the same."""
    shape = shape_of(config_of(settings.base_model), settings)
    found = memory_needed(shape, Load(1, 1), Sharing(count, shards=True))
    return Held(found.weights, found.gradients, found.optimizer)


@contextmanager
def _pretending(count: int) -> Iterator[None]:
    """The first of some processes, none of which is there."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def trained(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Print what updates on some processes came to, beside those of one; returns it."""
    rows: list[list[Any]] = []
    runs: list[dict[str, Any]] = []
    alone: dict[str, dict[str, Any]] = {}
    for job in jobs:
        found = run_together(job)
        one = alone.setdefault(job.trains, found)
        largest = max(found["held"], key=lambda held: sum(held.values()))
        found["saved"] = 1 - sum(largest.values()) / sum(one["held"][0].values())
        for name in ("losses", "gradient_norms"):
            pairs = zip(found[name], one[name], strict=True)
            found[f"{name}_differ"] = max(abs(x - y) / y for x, y in pairs)
        parts = [largest[name] / 2**20 for name in ("weights", "gradients", "optimizer")]
        rows.append([job.trains, job.count, *(f"{each:.1f}" for each in (*parts, sum(parts))),
                     f"{found['saved']:.1%}", " ".join(f"{x:.6f}" for x in found["losses"]),
                     f"{found['losses_differ']:.1e}"])  # fmt: skip
        runs.append(found)
    columns = ["trains", "processes", "weights MiB", "gradients", "optimizer", "together", "saved",
               "losses", "differ from one's"]  # fmt: skip
    common.print_table("Held by the process that holds most, after 4 updates", columns, rows)
    return runs


def divided(cases: Sequence[tuple[str, str, str, int]]) -> list[dict[str, Any]]:
    """Print what the first of some processes holds of models without numbers; returns it."""
    rows: list[list[Any]] = []
    runs = []
    for name, how, dtype, count in cases:
        values = {"base_model": name, "adapter": how, "dtype": dtype}
        settings = ModelSettings.model_validate(values)
        fact, plan = by_fact(settings, count), by_plan(settings, count)
        saved = 1 - fact.total / by_plan(settings, 1).total
        shown = [each / 2**20 for each in (fact.weights, fact.gradients, fact.optimizer)]
        rows.append([name, how, dtype, count,
                     *(f"{each:.1f}" for each in (*shown, fact.total / 2**20, plan.total / 2**20)),
                     f"{saved:.1%}"])  # fmt: skip
        runs.append(
            values | {"count": count, "fact": asdict(fact), "plan": asdict(plan), "saved": saved}
        )
    columns = ["model", "trains", "dtype", "processes", "weights MiB", "gradients", "optimizer",
               "together", "by plan", "saved"]  # fmt: skip
    common.print_table("Held by the first process, by fact and by plan", columns, rows)
    return runs


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one case of each")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {
        "trained": trained(QUICK if options.quick else JOBS),
        "divided": divided(CASES[:1] if options.quick else CASES),
    }
    common.write_results(options.out, results)


if __name__ == "__main__":
    main()
