"""Frozen lowest layers are computed once a row: losses are the same to the last digit."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from llama_factory.continual.strategies.anchor import Anchor
from llama_factory.continual.strategies.distill import Distill
from llama_factory.continual.strategies.freeze import Freeze
from llama_factory.core.types import Memory
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from llama_factory.training.loop import Protection, train
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.settings import TrainingSettings
from tests.tiny import make_tiny_model
from tests.training.objectives.test_objectives import rows_for, settings_of
from tests.training.short_runs import Told, folders, losses, weights

KEPT = re.compile(r"(\d+) of (\d+) times a row's states were there already")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A model of four layers."""
    return make_tiny_model(tmp_path_factory.mktemp("deep"), num_layers=4)


def make(folder, *, dropout=0.0, dtype="float32", adapter=None, **options):
    part = adapter or {"type": "lora", "rank": 4, "dropout": dropout}
    settings = ModelSettings(base_model=str(folder), dtype=dtype, adapter=part, **options)
    return adapt(settings, None, options=EncodeOptions(128), seed=0)


class Ran:
    """A run of a few updates, what it said, and how often states were there."""

    def __init__(self, model, path, states, rows=None, *, protection=None, held_out=(), **options):
        self.said = []
        usual = {"learning_rate": 1e-2, "max_steps": 5, "batch_size": 6, "trunk_cache": True}
        self.trained = train(
            model,
            rows or rows_for("sft"),
            TrainingSettings(**usual | options),
            protection or Protection(),
            folders=replace(folders(path), states=states),
            progress=Told(self.said),
            held_out=held_out,
        )
        self.losses = losses(path)
        self.weights = weights(self.trained)
        found = [KEPT.search(text) for text in self.said]
        self.counts = next((tuple(map(int, each.groups())) for each in found if each), None)

    def equals(self, other):
        return self.losses == other.losses and torch.equal(self.weights, other.weights)


@pytest.mark.parametrize("kind", sorted(OBJECTIVES.parts))
def test_losses_are_the_same_to_the_last_digit_for_every_objective(deep, tmp_path, kind):
    options = {"objective": settings_of(kind, deep), "eval_steps": 2, "rows": rows_for(kind)}
    options["held_out"] = rows_for(kind, 4)
    states = tmp_path / "states"

    def ran(name, **more):
        return Ran(make(deep, freeze_layers=2), tmp_path / name, states, **options | more)

    never = ran("never", trunk_cache_gb=0)
    assert not states.exists()
    cold, warm, off = ran("cold"), ran("warm"), ran("off", trunk_cache=False)
    assert cold.equals(never)
    assert warm.equals(never)
    assert never.counts[0] < cold.counts[0] < warm.counts[0] == warm.counts[1]
    assert off.counts is None
    assert off.losses == pytest.approx(never.losses, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_kept_in_the_format_that_is_computed_in(deep, tmp_path, dtype):
    model = make(deep, freeze_layers=2, dtype=dtype)
    never = Ran(
        make(deep, freeze_layers=2, dtype=dtype), tmp_path / "a", tmp_path / "s", trunk_cache_gb=0
    )
    kept = Ran(model, tmp_path / "b", tmp_path / "s")
    again = Ran(make(deep, freeze_layers=2, dtype=dtype), tmp_path / "c", tmp_path / "s")
    files = list((tmp_path / "s").rglob("*.safetensors"))
    assert {load_file(path)["states"].dtype for path in files} == {getattr(torch, dtype)}
    assert kept.equals(never)
    assert again.equals(never)
    assert again.counts[0] == again.counts[1]


def test_rows_that_share_their_beginning_and_general_rows_are_exact_too(deep, tmp_path):
    lead = "Read the question, think for a while, and write an answer to it. " * 2
    rows = [
        replace(row, messages=(replace(row.messages[0], content=lead + str(i)), row.messages[1]))
        for i, row in enumerate(rows_for("sft"))
    ]

    def ran(name, **options):
        strategies = (
            Anchor(fraction=0.3, answer_tokens=8),
            Distill(rows=["anchor"]),
            Freeze(layers=2),
        )
        protection = Protection(strategies, Memory())
        return Ran(
            make(deep), tmp_path / name, tmp_path / "s", rows, protection=protection, **options
        )

    never, cold, warm = ran("never", trunk_cache_gb=0), ran("cold"), ran("warm")
    assert cold.equals(never)
    assert warm.equals(never)
    assert warm.counts[0] == warm.counts[1]


def test_other_weights_below_have_other_states(deep, tmp_path):
    Ran(make(deep, freeze_layers=2), tmp_path / "a", tmp_path / "s")
    model = make(deep, freeze_layers=2)
    causal = model.network.get_base_model()
    causal.model.layers[1].mlp.down_proj.weight.data.mul_(1.5)
    changed = Ran(model, tmp_path / "b", tmp_path / "s")
    assert len(list((tmp_path / "s").iterdir())) == 2
    assert changed.counts[0] < changed.counts[1]
    Ran(make(deep, freeze_layers=1), tmp_path / "c", tmp_path / "s")
    assert len(list((tmp_path / "s").iterdir())) == 3


def test_a_damaged_file_is_computed_again_with_a_note(deep, tmp_path, caplog):
    first = Ran(make(deep, freeze_layers=2), tmp_path / "a", tmp_path / "s")
    damaged, cut, *_ = sorted((tmp_path / "s").rglob("*.safetensors"))
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 0xFF
    damaged.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:50])
    second = Ran(make(deep, freeze_layers=2), tmp_path / "b", tmp_path / "s")
    assert second.equals(first)
    assert f"{damaged} is damaged (its checksum differs): it is computed again." in caplog.text
    assert f"{cut} is damaged" in caplog.text
    third = Ran(make(deep, freeze_layers=2), tmp_path / "c", tmp_path / "s")
    assert third.counts[0] == third.counts[1]


def test_a_run_that_goes_on_ends_where_the_whole_one_did(deep, tmp_path):
    options = {"checkpoint_steps": 1, "checkpoints_kept": "all", "report_to": []}
    whole = Ran(make(deep, freeze_layers=2), tmp_path / "a", tmp_path / "s", **options)
    stopped = tmp_path / "b"
    Ran(make(deep, freeze_layers=2), stopped, tmp_path / "s", **options)
    for done in (3, 4, 5):
        shutil.rmtree(stopped / f"checkpoints/step-{done:08d}")
    again = Ran(make(deep, freeze_layers=2), stopped, tmp_path / "other", **options)
    assert any("Going on after step 2 of 5" in text for text in again.said)
    assert again.equals(whole)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"neftune_alpha": 5.0}, "training.neftune_alpha"),
        ({"quick_layers": False}, "training.quick_layers: false"),
        ({"dropout": 0.1}, "dropout"),
        ({"freeze_layers": 0}, "the first layer trains"),
        (
            {"adapter": {"type": "freeze", "highest": 2, "extra_modules": ["embed_tokens"]}},
            "embeddings",
        ),
    ],
    ids=str,
)
def test_what_stands_in_the_way_is_named(deep, tmp_path, options, reason):
    given = {"freeze_layers": 2} | options
    of_model = {k: given.pop(k) for k in ("dropout", "freeze_layers", "adapter") if k in given}
    ran = Ran(make(deep, **of_model), tmp_path, tmp_path / "s", **given)
    (said,) = [text for text in ran.said if "training.trunk_cache" in text]
    assert "not kept" in said
    assert reason in said
    assert not (tmp_path / "s").exists()


def test_layers_whose_adapter_was_taught_are_no_trunk(deep, tmp_path):
    model = make(deep)
    taught = next(w for n, w in model.trainable().items() if "layers.0" in n and "lora_B" in n)
    taught.data.fill_(0.01)
    ran = Ran(model, tmp_path, tmp_path / "s", protection=Protection((Freeze(layers=2),), Memory()))
    assert any("what earlier rounds taught their adapter" in text for text in ran.said)


def test_by_itself_it_keeps_what_is_read_again_and_fits(deep, tmp_path):
    def said(name, **options):
        path = tmp_path / name
        ran = Ran(make(deep, freeze_layers=2), path, path / "s", trunk_cache="auto", **options)
        return " ".join(ran.said)

    assert "computed once for each row" in said("often")
    assert "10 rows are read 10 times" in said("once", batch_size=5, max_steps=2)
    assert "training.trunk_cache_gb is 1e-06" in said("large", trunk_cache_gb=1e-6)


def test_own_weights_of_upper_layers_qualify(deep, tmp_path):
    def ran(name, **options):
        model = make(deep, adapter={"type": "freeze", "highest": 2})
        return Ran(model, tmp_path / name, tmp_path / "s", **options)

    never, cold, warm = ran("never", trunk_cache_gb=0), ran("cold"), ran("warm")
    assert cold.equals(never)
    assert warm.equals(never)
    assert warm.counts[0] == warm.counts[1]
