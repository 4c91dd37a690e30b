"""Plans from configs alone: what fits, what to change, and published points in bands."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llama_factory import experiment
from llama_factory.core.errors import ConfigError
from llama_factory.jobs.planning.accelerators import Accelerator, Cluster, read_cluster
from llama_factory.jobs.planning.speed import operations, speed_of
from llama_factory.jobs.planning.ways import Wish, best, changes, fewest, ways
from llama_factory.model.known_configs import config_of
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shape import Amount, ModelShape
from llama_factory.model.shape import shape_of as shape_from
from llama_factory.training.memory import GIB, Load, Sharing, memory_needed

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import plan_points

KEYS = 4096
"""Bytes of a token's keys and values in a layer."""
PACKED = 0.25
"""Of a weight's bytes that packing leaves."""


def shape_of(adapter):
    """A model of 10 GiB in ten layers, a tenth of which trains."""
    whole = Amount(0, GIB * (PACKED if adapter == "qlora" else 1))
    return ModelShape(
        num_layers=10, width=1024, vocabulary=1000,
        weights=Amount(0, GIB / 2), trained=Amount(0, GIB / 40), multiplied=Amount(0, GIB / 2),
        weight_bytes=whole, trained_bytes=Amount(0, GIB / 10), kept_bytes=Amount(0, GIB / 1000),
        copied_bytes=Amount(0, 0), unpacked_bytes=0, input_bytes=2048, key_bytes=KEYS,
    )  # fmt: skip


def wish(memory, count=1, **more):
    cluster = Cluster("X", count, Accelerator(memory=memory, teraflops=100, dollars=2.0))
    return Wish("lora", Load(1000, 1000), "auto", None, cluster, **more)


def test_parts_are_divided_where_they_are_sharded():
    alone = memory_needed(shape_of("lora"), Load(100, 100))
    four = memory_needed(shape_of("lora"), Load(100, 100), Sharing(4, shards=True))
    assert alone.weights == 10 * GIB
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(four, part) == pytest.approx(getattr(alone, part) / 4, abs=1)
    assert four.activations == alone.activations
    assert four.temporary == pytest.approx((2 + 0.1) * GIB, abs=1)  # two layers, one's gradient
    away = memory_needed(shape_of("lora"), Load(100, 100), Sharing(4, shards=True, offloads=True))
    assert (away.weights, away.optimizer, away.temporary) == (0, 0, four.temporary)


def test_processes_that_share_rows_keep_a_part_of_a_row_and_all_keys_and_values():
    load = Load(1000, 0)
    kept = memory_needed(shape_of("lora"), load, Sharing(4, context=4))
    gathered = KEYS * 750  # those of the other three
    assert kept.activations == pytest.approx(10 * GIB / 4 + 10 * gathered, abs=1)
    again = memory_needed(shape_of("lora"), load.recomputing(), Sharing(4, context=4))
    assert again.activations == pytest.approx(GIB / 4 + 10 * 2048 * 250 + gathered, abs=1)
    alike = memory_needed(shape_of("lora"), load, Sharing(4))
    assert again.temporary == alike.temporary + KEYS * 1000
    assert kept.weights == alike.weights


def test_longer_rows_fit_where_processes_share_them():
    long = replace(wish(24, count=8), load=Load(32_000, 32_000))
    assert best(ways(long, shape_of)).fit == "no"
    shared = replace(long, context=4)
    assert best(ways(shared, shape_of)).fit == "fits"
    found = fewest(shared, shape_of)
    assert found.sharing.context == 4
    assert found.sharing.count % 4 == 0


@pytest.mark.parametrize("name", ["qwen2.5-7b", "gemma2-2b"])
def test_keys_and_values_of_a_token_are_counted_from_the_config(name):
    settings = ModelSettings(base_model=name, dtype="bfloat16")
    config = config_of(name)
    shape = shape_from(config, settings)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert shape.key_bytes == 2 * 2 * config.num_key_value_heads * width


def test_a_plan_counts_context_and_offload_of_the_settings():
    asked = {"model.base_model": "qwen2.5-7b", "training.parallel.type": "fsdp"}
    alone = experiment.plan(None, asked, gpus="8xA100-40", tokens=32768)
    shared = asked | {"training.parallel.context": 4, "training.parallel.offload": "cpu"}
    together = experiment.plan(None, shared, gpus="8xA100-40", tokens=32768)
    assert together.chosen.sharing == Sharing(8, shards=True, offloads=True, context=4)
    assert together.chosen.memory.weights == 0
    at = [each.ways[0].memory.activations for each in (alone, together)]
    assert at[1] < 0.3 * at[0]
    assert "training.parallel.type=fsdp training.parallel.offload=cpu" in str(together)
    assert "32768 tokens at once on each group of 4 of 8 x A100-40" in str(together)
    with pytest.raises(ConfigError, match="Give a multiple of 4"):
        experiment.plan(None, shared, gpus="6xA100-40", tokens=4096)


def test_recomputation_keeps_the_input_of_each_layer_and_one_layer():
    load = Load(1000, 0)
    kept = memory_needed(shape_of("lora"), load).activations
    again = memory_needed(shape_of("lora"), load.recomputing()).activations
    assert kept == 10 * GIB
    assert again == pytest.approx(GIB + 10 * 2048 * 1000, abs=1)


def test_the_fastest_way_that_fits_is_chosen():
    assert not best(ways(wish(30), shape_of)).load.recomputes
    assert best(ways(wish(20), shape_of)).load.recomputes
    shared = best(ways(wish(12, count=4), shape_of))
    assert shared.sharing.shards
    assert shared.load.recomputes
    assert best(ways(wish(10), shape_of)).fit == "no"


def test_the_smallest_change_comes_first_and_each_of_them_fits():
    found = changes(wish(12), shape_of)
    assert [change.what for change in found] == ["3 x X", "model.adapter: qlora"]
    assert all(change.way.fit == "fits" for change in found)
    assert found[0].way.sharing == fewest(wish(12), shape_of).sharing
    kept = replace(wish(20), recomputes=False)
    assert "training.gradient_checkpointing: true" in [c.what for c in changes(kept, shape_of)]


def test_shorter_rows_are_proposed_in_numbers_where_they_help():
    tight = wish(16.5)
    long = replace(tight, load=replace(tight.load, num_tokens=4096), parallel="ddp")
    shorter = next(c for c in changes(long, shape_of) if "tokens at once" in c.what)
    assert 0 < shorter.way.load.num_tokens < 4096
    assert shorter.way.fit == "fits"


def test_what_no_change_makes_fit_is_said():
    assert changes(replace(wish(2), parallel="ddp"), shape_of) == []


def test_time_is_operations_over_a_share_of_the_rate():
    way = ways(wish(30), shape_of)[0]
    weights, trained = 10 * GIB / 2, 10 * GIB / 40
    attention = 3 * 2 * 2 * 10 * 1024 * 500
    assert operations(way) == pytest.approx(4 * weights + 2 * trained + attention)
    speed = speed_of(way, wish(30).cluster)
    assert speed.most == pytest.approx(0.5 * 100e12 / operations(way))
    assert speed.to_json(3600)["dollars"][0] == pytest.approx(2.0 / speed.most)


@pytest.mark.parametrize(
    ("words", "name", "count", "gib"),
    [
        ("8xA100-40", "A100-40", 8, 39.6),
        ("a100-80", "A100-80", 1, 79.2),
        ("4 x H100", "H100-80", 4, 79.6),
        ("2x24G", "24G", 2, 24),
    ],
)
def test_accelerators_are_read_as_people_write_them(words, name, count, gib):
    found = read_cluster(words)
    assert (found.name, found.count, found.each.memory) == (name, count, gib)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("8xA100", r"'A100' is not in the table.*Known: A100-40"),
        ("0xA100-40", "says no accelerator"),
        ("", "says no accelerator"),
        ("8xB999", "--accelerators FILE"),
    ],
)
def test_unknown_accelerators_are_refused(words, problem):
    with pytest.raises(ConfigError, match=problem):
        read_cluster(words)


def test_a_table_of_ones_own_counts_more(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("Mine-96: {memory: 95.5, teraflops: 400, dollars: 1.5}\nT4-16: {memory: 14}\n")
    assert read_cluster("2xMine-96", own).each.dollars == 1.5
    assert read_cluster("T4-16", own).each.memory == 14
    own.write_text("Mine-96: {memory: none}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml: memory"):
        read_cluster("Mine-96", own)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_cluster("Mine-96", tmp_path / "missing.yaml")


def test_7b_on_one_a100_of_40_gib_and_70b_on_eight():
    small = experiment.plan(None, {"model.base_model": "qwen2.5-7b"}, gpus="A100-40", tokens=4096)
    assert small.fits
    assert not small.changes
    assert small.chosen.sharing.count == 1
    large = experiment.plan(
        None, {"model.base_model": "llama3.1-70b"}, gpus="8xA100-40", tokens=4096
    )
    assert large.fits
    assert large.chosen.sharing == Sharing(8, shards=True)
    assert large.fewest.sharing.count < 8
    assert json.loads(json.dumps(large.to_json()))["chosen"]["parallel"] == "fsdp"
    assert "each holds a part (fsdp)" in str(large)


@pytest.mark.slow
def test_a_file_without_rows_can_be_planned(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text("model_name_or_path: llama2-7b\nstage: sft\nfinetuning_type: full\n")
    found = experiment.plan(path, gpus="1xA100-40", tokens=512)
    assert not found.fits
    assert found.changes[0].what.endswith("x A100-40")


def test_a_series_of_published_peaks_lies_in_its_range(tmp_path):
    path = tmp_path / "points.yaml"
    path.write_text(
        plan_points.POINTS.read_text().partition("- {source: Q, model: qwen-1.8b, what: Q")[0]
    )
    found = list(plan_points.points(path))
    assert len(found) == 6
    assert all(point.is_inside for point in found)


@pytest.mark.slow
def test_nine_of_ten_comparable_points_lie_in_their_range():
    found = list(plan_points.points(plan_points.POINTS))
    total = plan_points.summary(found)
    assert total["comparable"] >= 60
    assert total["share"] >= 0.9
    whole = [point for point in found if point.source == "Q"]
    assert all(point.own < point.high for point in whole)
