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
from llama_factory.model.shape import Amount, ModelShape
from llama_factory.training.memory import GIB, Load, Sharing, memory_needed

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import plan_points

PACKED = 0.25
"""Of a weight's bytes that packing leaves."""


def shape_of(adapter):
    """A model of 10 GiB in ten layers, a tenth of which trains."""
    whole = Amount(0, GIB * (PACKED if adapter == "qlora" else 1))
    return ModelShape(
        num_layers=10, width=1024, vocabulary=1000,
        weights=Amount(0, GIB / 2), trained=Amount(0, GIB / 40), multiplied=Amount(0, GIB / 2),
        weight_bytes=whole, trained_bytes=Amount(0, GIB / 10), kept_bytes=Amount(0, GIB / 1000),
        copied_bytes=Amount(0, 0), unpacked_bytes=0, input_bytes=2048,
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
