import logging

import pytest
import torch

from llama_factory.continual.low_rank import low_rank_layers, magmax, ties
from llama_factory.continual.merging import blending, combine, copy_into, snapshot
from llama_factory.continual.strategies.freeze import Freeze
from llama_factory.continual.strategies.merge import Merge
from llama_factory.core.types import Memory
from llama_factory.versions import memory as on_disk
from tests.continual.small import fit, flat, make, reopened, rows, shake

METHODS = ("interpolate", "ema", "slao", "magmax", "ties")


def full_updates(model, weights=None):
    layers, weights = low_rank_layers(model), weights or model.trainable()
    return {name: each.of(weights).dense() for name, each in layers.items()}


def best_of_rank(full, rank=4):
    u, s, v = torch.linalg.svd(full.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).float()


def start(model, merge, memory):
    state = merge.prepare(model, memory)
    merge.begin(model, memory, state)
    return state


def one_round(model, merge, memory=None, seed=2):
    """Prepare, 'train' at random, finish; returns the memory and the weights that were trained."""
    state = start(model, merge, memory := memory or Memory())
    begun = snapshot(model)
    trained = snapshot(shake(model, seed=seed))
    return merge.after_round(model, rows("退货", 2), memory, state, seed=0), begun, trained


def two_rounds(tiny_model, merge, **adapter):
    """The model after two rounds, its weights after the first, and what `one_round` returned."""
    model = shake(make(tiny_model, **adapter)) if not adapter else make(tiny_model, **adapter)
    memory, _, _ = one_round(model, merge, seed=2)
    previous = snapshot(model)
    return model, previous, *one_round(model, merge, memory, seed=3)


def close(one, other, tolerance=2e-3):
    return float((one - other).norm()) <= tolerance * float(other.norm())


@pytest.mark.variants
@pytest.mark.parametrize("method", METHODS)
def test_a_first_round_is_plain_training_bit_for_bit(tiny_model, tmp_path, plain, method):
    merge = Merge(method=method, alphas=(0.75, 0.5))
    merged = fit(make(tiny_model), tmp_path, rows("a", 6), [merge])
    assert torch.equal(flat(merged.model), plain[0])
    assert merged.memory.numbers["merge.rounds"] == 1
    assert merged.memory.numbers["merge.error"] == 0


def test_a_refused_first_round_is_moved_back_towards_the_base(tiny_model):
    model, merge = make(tiny_model), Merge(alphas=(0.75, 0.5))
    state = start(model, merge, Memory())
    trained = snapshot(shake(model, seed=2))
    memory = merge.after_round(model, [], Memory(), state, seed=0)
    assert all(torch.equal(model.trainable()[name], trained[name]) for name in trained)
    merge.after_round(model, [], memory, merge.gentler(state)["alpha 0.5"], seed=0)
    new = full_updates(model, trained)
    for name, merged in full_updates(model).items():
        assert close(merged, 0.5 * new[name])


@pytest.mark.parametrize("alpha", [0.75, 0.5])
def test_interpolation_blends_the_updates(tiny_model, alpha):
    model, previous, memory, _, trained = two_rounds(tiny_model, Merge(alphas=(alpha,)))
    old, new = full_updates(model, previous), full_updates(model, trained)
    for name, merged in full_updates(model).items():
        assert close(merged, best_of_rank((1 - alpha) * old[name] + alpha * new[name]))
    exact = [(1 - alpha) * old[name] + alpha * new[name] for name in old]
    lost = sum(
        float((x - y).double().square().sum())
        for x, y in zip(exact, full_updates(model).values(), strict=True)
    )
    total = sum(float(x.double().square().sum()) for x in exact)
    assert memory.numbers["merge.error"] == pytest.approx((lost / total) ** 0.5, rel=1e-2)


def test_the_average_over_rounds_starts_with_the_first_and_training_goes_on_unmerged(tiny_model):
    merge = Merge(method="ema", decay=0.6)
    model, previous, memory, begun, trained = two_rounds(tiny_model, merge)
    old, new = full_updates(model, previous), full_updates(model, trained)
    for name, merged in full_updates(model).items():
        assert close(merged, best_of_rank(0.6 * old[name] + 0.4 * new[name]))
    average = snapshot(model)
    _, begun, last = one_round(model, merge, memory, seed=4)
    assert all(torch.equal(begun[name], trained[name]) for name in trained)
    old, new = full_updates(model, average), full_updates(model, last)
    for name, merged in full_updates(model).items():
        assert close(merged, best_of_rank(0.6 * old[name] + 0.4 * new[name]))


def test_slao_replaces_a_and_moves_b_by_one_over_the_root_of_the_round(tiny_model):
    merge, model = Merge(method="slao"), make(tiny_model)
    memory, _, trained = one_round(model, merge, seed=2)
    layers = low_rank_layers(model)
    for number in (2, 3, 4):
        merged, last = snapshot(model), trained
        memory, begun, trained = one_round(model, merge, memory, seed=number + 1)
        for each in layers.values():
            q = begun[each.a]
            torch.testing.assert_close(q @ q.mT, torch.eye(4), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(last[each.a] @ q.mT @ q, last[each.a], rtol=1e-3, atol=1e-4)
            assert torch.equal(begun[each.b], last[each.b])
            share = number**-0.5
            b = merged[each.b] + share * (trained[each.b] - merged[each.b])
            torch.testing.assert_close(model.trainable()[each.b].detach(), b)
            assert torch.equal(model.trainable()[each.a], trained[each.a])
    assert memory.numbers["merge.rounds"] == 4
    assert memory.numbers["merge.error"] == 0


def test_magmax_takes_the_larger_elements_of_full_updates(tiny_model):
    model, previous, memory, _, trained = two_rounds(tiny_model, Merge(method="magmax"))
    old, new = full_updates(model, previous), full_updates(model, trained)
    for name, merged in full_updates(model).items():
        assert close(merged, best_of_rank(magmax(old[name], new[name])))
    assert 0 < memory.numbers["merge.error"] < 1


def test_ties_elects_signs_on_full_updates(tiny_model, caplog):
    merge = Merge(method="ties", density=0.4)
    model, previous, memory, _, trained = two_rounds(tiny_model, merge)
    old, new = full_updates(model, previous), full_updates(model, trained)
    for name, merged in full_updates(model).items():
        assert close(merged, best_of_rank(ties(old[name], new[name], 0.4)))
    error = memory.numbers["merge.error"]
    assert 0.25 < error < 1
    assert f"merge: {100 * error:.0f} % of the norm of the merged updates was lost" in caplog.text


BY_ELEMENT = {
    "interpolate": lambda start, old, new: 0.25 * old + 0.75 * new,
    "ema": lambda start, old, new: 0.5 * old + 0.5 * new,
    "slao": lambda start, old, new: old + 2**-0.5 * (new - old),
    "magmax": lambda start, old, new: start + magmax(old - start, new - start),
    "ties": lambda start, old, new: start + ties(old - start, new - start, 0.5),
}


@pytest.mark.variants
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_no_product_are_merged_element_by_element(tiny_model, method):
    merge = Merge(method=method, alphas=(0.75,), density=0.5, start="merged")
    origin = snapshot(make(tiny_model, type="ia3"))
    model, previous, _, _, trained = two_rounds(tiny_model, merge, type="ia3")
    for name, weight in model.trainable().items():
        expected = BY_ELEMENT[method](origin[name], previous[name], trained[name])
        torch.testing.assert_close(weight.detach(), expected)


def test_dora_keeps_its_own_weights_and_blends_them_too(tiny_model):
    model = shake(make(tiny_model, use_dora=True))
    previous = snapshot(model)
    trained = snapshot(shake(model, seed=2))
    combine(model, previous, blending(0.5))
    names = [name for name in previous if "magnitude" in name]
    for name in names:
        expected = 0.5 * previous[name] + 0.5 * trained[name]
        torch.testing.assert_close(model.trainable()[name].detach(), expected)
    assert names


def test_gentler_ends_are_the_later_alphas_on_the_same_weights(tiny_model):
    model, merge = shake(make(tiny_model)), Merge()
    state, previous = start(model, merge, Memory()), snapshot(model)
    trained = snapshot(shake(model, seed=2))
    memory = merge.after_round(model, [], Memory(), state, seed=0)
    assert all(torch.equal(model.trainable()[name], trained[name]) for name in trained)
    old, new = full_updates(model, previous), full_updates(model)
    ends = merge.gentler(state)
    assert list(ends) == ["alpha 0.75", "alpha 0.5"]
    for alpha, end in zip((0.75, 0.5), ends.values(), strict=True):
        copy_into(model, trained)
        kept = merge.after_round(model, [], memory, end, seed=0)
        for name, merged in full_updates(model).items():
            assert close(merged, best_of_rank((1 - alpha) * old[name] + alpha * new[name]))
        assert kept.numbers["merge.rounds"] == memory.numbers["merge.rounds"]
        assert not kept.tensors
    assert not Merge(method="ties").gentler(state)
    assert not Merge(alphas=(0.5,)).gentler(state)


def test_a_version_that_was_never_merged_counts_as_the_first_round(tiny_model):
    model, merge = shake(make(tiny_model)), Merge(method="slao")
    memory, _, trained = one_round(model, merge)
    assert memory.numbers["merge.rounds"] == 2
    assert not torch.equal(flat(model), torch.cat([w.flatten() for w in trained.values()]))


def test_pissa_begins_at_an_update_of_zero(tiny_model):
    model, merge = make(tiny_model, init="pissa"), Merge(method="ties")
    memory, _, trained = one_round(model, merge)
    assert memory.numbers["merge.rounds"] == 1
    assert all(torch.equal(model.trainable()[name], trained[name]) for name in trained)


def test_weights_changed_since_the_merge_are_where_training_begins_and_it_is_said(
    tiny_model, caplog
):
    model, merge = make(tiny_model), Merge(method="ema")
    memory, _, _ = one_round(model, merge)
    shake(model, seed=9)
    changed = flat(model)
    with caplog.at_level(logging.WARNING):
        start(model, merge, memory)
    assert torch.equal(flat(model), changed)
    assert "the released weights were changed since they were merged" in caplog.text


@pytest.mark.variants
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, set()),
        ({"alphas": (0.5,)}, set()),
        ({"method": "ties"}, set()),
        ({"method": "ema"}, {"trained"}),
        ({"method": "slao", "start": "merged"}, set()),
    ],
)
def test_only_what_is_needed_is_kept(tiny_model, options, kept):
    memory, _, _ = one_round(shake(make(tiny_model)), Merge(**options))
    assert {name.split(".")[1] for name in memory.tensors} == kept


@pytest.mark.variants
@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_from_disk_as_if_it_had_never_been_saved(tiny_model, tmp_path, method):
    merge = Merge(method=method, alphas=(0.5, 1.0))
    model, _, memory, _, _ = two_rounds(tiny_model, merge)
    on_disk.save(memory, tmp_path)
    again, start = on_disk.load(tmp_path), snapshot(model)
    assert again.numbers == memory.numbers
    one_round(model, merge, memory)
    straight = flat(model)
    copy_into(model, start)
    one_round(model, merge, again)
    assert torch.equal(flat(model), straight)


@pytest.mark.slow
def test_a_resumed_run_ends_like_an_uninterrupted_one(tiny_model, tmp_path):
    strategies, options = [Merge(method="slao")], {"checkpoint_steps": 2, "max_steps": 6}
    first = fit(make(tiny_model), tmp_path / "a", rows("a", 6), strategies)
    start = snapshot(first.model)

    def second(path):
        model = make(tiny_model)
        copy_into(model, start)
        return fit(model, path, rows("b", 6), strategies, first.memory, **options)

    whole = second(tmp_path / "whole")
    second(tmp_path / "cut")
    (tmp_path / "cut/checkpoints/step-00000006/weights.safetensors").write_bytes(b"")
    resumed = second(tmp_path / "cut")
    assert torch.equal(flat(whole.model), flat(resumed.model))
    assert whole.memory.tensors.keys() == resumed.memory.tensors.keys()


def test_what_other_strategies_remember_is_left_alone(tiny_model):
    memory = Memory({"replay": tuple(rows("b", 2))}, {"ewc.A": torch.ones(2)}, {"ewc.rounds": 3})
    kept, _, _ = one_round(make(tiny_model), Merge(), memory)
    assert kept.rows == memory.rows
    assert torch.equal(kept.tensors["ewc.A"], torch.ones(2))
    assert kept.numbers["ewc.rounds"] == 3


@pytest.mark.parametrize("alphas", [(), (0.0,), (1.5,)])
def test_alphas_that_make_no_sense_are_refused(alphas):
    with pytest.raises(ValueError, match="alphas"):
        Merge(alphas=alphas)


@pytest.mark.variants
@pytest.mark.parametrize("method", ["ema", "slao", "magmax"])
def test_frozen_layers_do_not_lose_where_training_begins(tiny_model, tmp_path, caplog, method):
    merge, freeze = Merge(method=method), Freeze(layers=1)
    done = fit(make(tiny_model), tmp_path / "0", rows("a", 6), [merge])
    for index in (1, 2):
        model = reopened(done.model, tiny_model, tmp_path / f"model-{index}")
        done = fit(model, tmp_path / str(index), rows(f"b{index}", 6), [merge, freeze], done.memory)
    assert done.memory.numbers["merge.rounds"] == 3
    assert "were changed since they were merged" not in caplog.text


@pytest.mark.slow
def test_a_round_with_nothing_to_merge_with_loses_nothing(tiny_model):
    for method in METHODS:
        memory, _, _ = one_round(make(tiny_model), Merge(method=method, alphas=(0.5,)))
        assert (memory.numbers["merge.error"], memory.numbers["merge.rounds"]) == (0, 1)
    memory, _, _ = one_round(shake(make(tiny_model)), Merge(alphas=(1.0, 0.5)))
    assert (memory.numbers["merge.error"], memory.numbers["merge.rounds"]) == (0, 2)


@pytest.mark.variants
@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"method": "interpolate"}, set()),
        ({"method": "interpolate", "start": "trained"}, {"trained"}),
        ({"method": "ema"}, {"trained"}),
        ({"method": "ema", "start": "merged"}, set()),
        ({"method": "slao"}, {"trained"}),
        ({"method": "magmax"}, {"trained", "origin"}),
        ({"method": "magmax", "start": "merged"}, {"origin"}),
        ({"method": "ties"}, {"origin"}),
        ({"method": "ties", "start": "trained"}, {"trained", "origin"}),
    ],
)
def test_weights_outside_products_are_remembered_as_they_were_at_first_where_that_counts(
    tiny_model, options, kinds
):
    model, merge = make(tiny_model, type="ia3"), Merge(**options)
    origin = snapshot(model)
    stale = Memory({}, {"merge.old": torch.ones(1), "merger.x": torch.ones(1)})
    memory, _, _ = one_round(model, merge, stale)
    memory, _, trained = one_round(model, merge, memory, seed=3)
    for name in origin:
        if "origin" in kinds:
            assert torch.equal(memory.tensors[f"merge.origin.{name}"], origin[name])
        if "trained" in kinds:
            assert torch.equal(memory.tensors[f"merge.trained.{name}"], trained[name])
    assert memory.tensors.keys() == {"merger.x"} | {
        f"merge.{kind}.{name}" for kind in kinds for name in origin
    }


@pytest.mark.variants
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", ["trained", "merged"])
def test_training_begins_where_the_setting_says(tiny_model, method, place):
    model = shake(make(tiny_model))
    merge = Merge(method=method, start=place, alphas=(0.5,))
    memory, _, trained = one_round(model, merge)
    merged = snapshot(model)
    start(model, merge, memory)
    expected = trained if place == "trained" else merged
    for each in low_rank_layers(model).values():
        assert torch.equal(model.trainable()[each.b], expected[each.b])
        assert torch.equal(model.trainable()[each.a], expected[each.a]) == (method != "slao")


def test_training_goes_on_unmerged_only_from_the_weights_that_were_merged(tiny_model, caplog):
    model, merge = shake(make(tiny_model)), Merge(method="ema")
    memory, _, trained = one_round(model, merge)
    merged, digest = snapshot(model), memory.numbers["merge.digest"]
    squares = float(flat(model).double().square().sum())  # which earlier programs kept
    cases = [
        ({"merge.digest": digest}, True),
        ({"merge.norm": squares * (1 + 1e-7)}, True),  # on other machines it comes out otherwise
        ({"merge.norm": squares * (1 - 1e-7)}, True),
        ({"merge.norm": squares * (1 + 1e-5)}, False),
        ({"merge.digest": digest + 1, "merge.norm": squares}, False),
        ({}, False),
    ]
    for told, goes_on in cases:
        copy_into(model, merged)
        start(model, merge, Memory({}, memory.tensors, {"merge.rounds": 1, **told}))
        expected = trained if goes_on else merged
        assert all(torch.equal(model.trainable()[name], expected[name]) for name in expected), told
        assert (caplog.messages == []) == goes_on
    assert caplog.messages[0] == (
        "merge: the released weights were changed since they were merged, so training begins at "
        "them and not at those trained last (strategies.merge.start)."
    )


def test_a_merge_without_room_is_told_with_what_to_do(caplog):
    Merge(method="ties")._warn_of(0.25)
    assert caplog.messages == []
    Merge(method="ties")._warn_of(0.9949)
    assert caplog.messages == [
        "merge: 99 % of the norm of the merged updates was lost, because ties gives updates of a "
        "higher rank than the adapter's. Use method: interpolate, or raise model.adapter.rank."
    ]


def test_after_a_consolidation_only_the_number_of_rounds_is_known(tiny_model):
    memory, _, _ = one_round(make(tiny_model, type="ia3"), Merge(method="magmax"))
    tensors = {**memory.tensors, "ewc.A": torch.ones(2)}
    left = Merge.consolidated(Memory({"replay": tuple(rows("a", 1))}, tensors, memory.numbers))
    assert left.tensors.keys() == {"ewc.A"}
    assert left.numbers == {"merge.rounds": 1, "merge.error": 0}
    assert left.rows.keys() == {"replay"}
