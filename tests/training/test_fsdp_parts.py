"""Every adapter, objective and strategy trains the same where two processes share the weights."""

import os
from dataclasses import replace

import pytest
import torch

from llama_factory.core.types import Memory, Message
from llama_factory.model.adapted import adapt
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from llama_factory.training.loop import Protection
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.processes import process_group
from llama_factory.training.strategy import STRATEGIES
from tests.continual import small
from tests.training.short_runs import examples, fit, losses
from tests.training.test_fsdp import together

LORA = {"type": "lora", "rank": 4}
FULL = {"type": "full"}
USUAL = {
    "report_to": [],
    "batch_size": 6,
    "max_steps": 3,
    "micro_batch_tokens": 64,
    "quick_layers": False,
    "eval_steps": 2,
    "checkpoint_steps": 2,
    "keep_best": True,
}
PACKED = {"qlora", "qoft"}
"""Adapters that are refused."""


def pairs():
    worse = (Message("assistant", f"No {i}. " * (1 + i % 3)) for i in range(9))
    return [replace(row, rejected=each) for row, each in zip(examples(9), worse, strict=True)]


def liked():
    return [replace(row, is_desirable=i % 2 == 0) for i, row in enumerate(examples(9))]


def cases(tiny):
    """Adapter, other settings of the model, rows, settings of training and strategies, by name."""
    rows = examples(9)
    adapters = {
        "lora": LORA,
        "lora dora": LORA | {"use_dora": True},
        "lora pissa": LORA | {"init": "pissa"},
        "lora and a head": LORA | {"modules_to_save": ["lm_head"]},
        "lora and embeddings": LORA | {"modules_to_save": ["embed_tokens"]},
        "full": FULL,
        "freeze": {"type": "freeze", "highest": 1},
        "prompt": {"type": "prompt", "num_tokens": 4},
        **{name: {"type": name} for name in ("bottleneck", "ia3", "oft")},
    }
    new = {"new_tokens": ["<foo>", "<bar>"]}
    teacher = {"type": "distill", "teacher": str(tiny)}
    taught = {
        **{name: (rows, name) for name in ("sft", "asft", "eaft", "pretrain")},
        **{name: (pairs(), name) for name in ("dpo", "orpo", "simpo", "reward")},
        "kto": (liked(), "kto"),
        "distill": (rows, teacher),
    }
    old = {
        "ewc": (LORA, ["replay", "ewc"]),
        "ewc full": (FULL, ["replay", {"type": "ewc", "form": "adapter"}]),
        "agem full": (FULL, ["replay", "agem"]),
        "distill": (LORA, ["anchor", "replay", "distill"]),
        "merge full": (FULL, ["merge"]),
        "olora": (LORA, ["olora"]),
        "freeze": (LORA, ["freeze"]),
    }
    return {
        **{f"adapter {name}": (each, {}, rows, {}, []) for name, each in adapters.items()},
        "new tokens": (LORA, new, rows, {}, []),
        "bfloat16": (LORA, {"dtype": "bfloat16"}, rows, {}, []),
        **{
            f"objective {name}": (LORA, {}, given, {"objective": each}, [])
            for name, (given, each) in taught.items()
        },
        "objective asft full": (FULL, {}, rows, {"objective": "asft"}, []),
        **{f"strategy {name}": (each, {}, rows, {}, names) for name, (each, names) in old.items()},
    }


def train_all(folder, tiny, environment, options):
    """Each case in turn, together with the other processes of the environment."""
    os.environ.update(environment)
    memory = Memory(rows={"replay": tuple(small.rows("old", 12, start=50))})
    with process_group(timeout=60) as processes:
        for name, (adapter, model, rows, more, strategies) in cases(tiny).items():
            values = {"base_model": str(tiny), "dtype": "float32", "adapter": adapter} | model
            settings = ModelSettings.model_validate(values)
            trained = fit(
                tiny,
                folder / name,
                model=adapt(settings, None, options=EncodeOptions(128), seed=0),
                rows=rows,
                held_out=rows[:2],
                protection=Protection(tuple(map(STRATEGIES.parse, strategies)), memory),
                **(USUAL | more | options),
            )
            if processes.is_first:
                torch.save(small.flat(trained.model).float(), folder / name / "weights.pt")


@pytest.fixture(scope="module")
def one_and_two(tiny_model, tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    train_all(one, tiny_model, {}, {})
    together(2, train_all, two, tiny_model, {}, {"parallel": "fsdp"})
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("name", [*cases("")])
def test_two_that_share_weights_train_what_one_trains(one_and_two, name):
    one, two = (folder / name for folder in one_and_two)
    assert losses(two) == pytest.approx(losses(one), rel=2e-6)
    alone, shared = (torch.load(folder / "weights.pt") for folder in (one, two))
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=5e-5)


def test_every_adapter_objective_and_strategy_has_a_case():
    names = " ".join(cases(""))
    assert {name for name in ADAPTERS.parts if f"adapter {name}" not in names} == PACKED
    assert {name for name in OBJECTIVES.parts if f"objective {name}" not in names} == set()
    seen = [each for *_, strategies in cases("").values() for each in strategies]
    types = {each if isinstance(each, str) else each["type"] for each in seen}
    assert set(STRATEGIES.parts) == types
