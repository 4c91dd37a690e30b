"""Every optimizer: it learns, and a resumed run equals an uninterrupted one."""

import shutil

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open

from llama_factory.core.errors import ConfigError
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.packing_libraries import missing
from llama_factory.training import checkpoints
from llama_factory.training.optimizers import OPTIMIZERS, WeightGroup
from llama_factory.training.saving import save, state_of
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import weight_groups
from tests.training.short_runs import fit, losses, make, weights

HAS_8_BITS = not missing("bitsandbytes")
HERE = [name for name in OPTIMIZERS.parts if name != "adamw_8bit" or HAS_8_BITS]
RATES = {"sgd": 0.3}
MATRIX = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
"""A gradient."""


@pytest.mark.variants
@pytest.mark.parametrize("name", HERE)
def test_four_steps_equal_two_and_two_after_a_resume(tiny, tmp_path, name):
    options = {"optimizer": name, "max_steps": 4, "checkpoint_steps": 2, "weight_decay": 0.1}
    whole = fit(tiny, tmp_path / "a", **options)
    fit(tiny, tmp_path / "b", **options)
    shutil.rmtree(tmp_path / "b/checkpoints/step-00000004")
    again = fit(tiny, tmp_path / "b", **options)
    assert torch.equal(weights(whole), weights(again))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.variants
@pytest.mark.parametrize("name", HERE)
def test_every_optimizer_learns(tiny, tmp_path, name):
    rate = RATES.get(name, 1e-2)
    fit(tiny, tmp_path, optimizer=name, learning_rate=rate, max_steps=30)
    course = losses(tmp_path)
    assert course[-1] < 0.8 * course[0]


def test_numbers_that_are_no_tensors_survive_a_checkpoint(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight] = {"step": 7, "scale": 0.1, "moment": torch.arange(3.0)}
    position = checkpoints.Position("plan", step=7)
    save(tmp_path, state_of(position, {"w": weight}, optimizer, {"scale": 8.0}))
    fresh = torch.optim.SGD([weight], lr=0.1)
    scale = checkpoints.restore(tmp_path / "step-00000007", {"w": weight}, fresh)
    assert scale == {"scale": 8.0}
    state = fresh.state[weight]
    assert (state["step"], state["scale"]) == (7, 0.1)
    assert torch.equal(state["moment"], torch.arange(3.0))


def full(tiny):
    """A model all of whose weights train."""
    model = make(tiny)
    base = model.network.unload().requires_grad_(True)
    return AdaptedModel(base, model.tokenizer, model.fingerprint, model.options)


def names_by_group(model, **options):
    of = {id(weight): name for name, weight in model.trainable().items()}
    groups = weight_groups(model, TrainingSettings(**options))
    return [(group, [of[id(weight)] for weight in group.weights]) for group in groups]


def test_muon_moves_matrices_and_adamw_the_rest(tiny):
    model = full(tiny)
    groups = names_by_group(model)
    matrices = [name for group, names in groups if group.is_matrix for name in names]
    others = [name for group, names in groups if not group.is_matrix for name in names]
    assert len(matrices) == 2 * 7  # two layers of q k v o and gate up down
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} < set(others)
    optimizer = OPTIMIZERS.parse("muon").build([group for group, _ in groups])
    for weight in model.trainable().values():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    trained = model.trainable()
    assert set(optimizer.state[trained[matrices[0]]]) == {"momentum_buffer"}
    assert "exp_avg" in optimizer.state[trained["lm_head.weight"]]


def test_muon_moves_a_matrix_as_far_as_adamw_would(tiny):
    weight = torch.nn.Parameter(torch.zeros(32, 8))
    groups = weight_groups(make(tiny), TrainingSettings(learning_rate=1e-3))
    only = type(groups[0])([weight], 1e-3, 1.0, 0.0, True)
    optimizer = OPTIMIZERS.parse("muon").build([only])
    weight.grad = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    rms = float(weight.detach().square().mean().sqrt())
    assert 0.15e-3 < rms < 0.25e-3  # 0.2 times the rate: AdamW's usual step


def test_norms_and_biases_never_decay(tiny):
    for group, _ in names_by_group(full(tiny), weight_decay=0.1):
        assert all(group.decay == (0.1 if weight.ndim > 1 else 0.0) for weight in group.weights)


@pytest.mark.slow
def test_loraplus_gives_the_b_matrices_a_higher_rate(tiny, tmp_path):
    groups = names_by_group(make(tiny), loraplus_ratio=16)
    factors = {group.factor: names for group, names in groups}
    assert set(factors) == {1.0, 16.0}
    assert all("lora_B" in name for name in factors[16.0])
    assert all("lora_A" in name for name in factors[1.0])
    # B starts at zero and AdamW's first step is the rate itself: 16 times the usual
    options = {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-4}
    usual = fit(tiny, tmp_path / "a", **options).model.trainable()
    faster = fit(tiny, tmp_path / "b", loraplus_ratio=16, **options).model.trainable()
    for name in factors[16.0]:
        torch.testing.assert_close(faster[name], 16 * usual[name])
    for name in factors[1.0]:
        assert torch.equal(faster[name], usual[name])


def test_loraplus_without_lora_is_refused(tiny):
    with pytest.raises(ConfigError, match="loraplus_ratio: 16.0 is a rate for LoRA's B matrices"):
        weight_groups(full(tiny), TrainingSettings(loraplus_ratio=16))


@pytest.mark.skipif(HAS_8_BITS, reason="for machines without bitsandbytes")
def test_8_bit_adamw_says_at_once_what_it_needs(tiny, tmp_path):
    with pytest.raises(ConfigError, match="adamw_8bit needs the library bitsandbytes .pip install"):
        TrainingSettings(optimizer="adamw_8bit").check()
    with pytest.raises(ConfigError, match="Or use adamw .the same steps, 6 bytes more for each tr"):
        fit(tiny, tmp_path, optimizer="adamw_8bit")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.skipif(not HAS_8_BITS, reason="needs bitsandbytes: pip install '.[packed]'")
def test_8_bit_moments_of_large_matrices_learn_as_adamw_and_go_on_exactly(tiny, tmp_path):
    options = {"max_steps": 4, "checkpoint_steps": 2, "learning_rate": 1e-3}
    fit(tiny, tmp_path / "plain", model=full(tiny), **options)
    whole = fit(tiny, tmp_path / "a", model=full(tiny), optimizer="adamw_8bit", **options)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "plain"), rel=0.01)
    with safe_open(tmp_path / "a/checkpoints/step-00000004/optimizer.safetensors", "pt") as state:
        kept = {name: state.get_slice(name).get_dtype() for name in state.keys()}  # noqa: SIM118
    assert "U8" in kept.values()  # of the embeddings; small tensors keep 32 bits
    shutil.rmtree(tmp_path / "a/checkpoints/step-00000004")
    again = fit(tiny, tmp_path / "a", model=full(tiny), optimizer="adamw_8bit", **options)
    assert torch.equal(weights(whole), weights(again))


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(
        ValidationError, match="'adafactr' is not an optimizer. Did you mean 'adafactor'"
    ):
        TrainingSettings(optimizer="adafactr")


def test_options_of_an_optimizer_are_checked():
    with pytest.raises(ValidationError, match="nesterov looks ahead along a momentum"):
        TrainingSettings(optimizer={"type": "sgd", "momentum": 0, "nesterov": True})
    with pytest.raises(ValidationError, match="Did you mean 'betas'"):
        TrainingSettings(optimizer={"type": "adamw", "beta": [0.9, 0.95]})
    assert TrainingSettings(optimizer={"type": "adamw", "betas": [0.9, 0.95]}).optimizer.eps == 1e-8


def moved(kind, gradient, updates=1, **options):
    """A matrix of zeros after updates by one gradient at a rate of 1, and what is kept of it."""
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    group = WeightGroup([weight], 1.0, 1.0, 0.0, True, ("model.layers.0.q_proj.weight",))
    optimizer = OPTIMIZERS.parse({"type": kind} | options).build([group])
    for _ in range(updates):
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach(), optimizer.state[weight]


def test_galore_moves_a_matrix_in_its_main_directions_only():
    matrix, state = moved("galore", MATRIX, rank=2, scale=0.5)
    _, values, right = torch.linalg.svd(MATRIX)
    main = right[:2].T @ right[:2]
    torch.testing.assert_close(matrix @ main, matrix)
    assert state["mean"].shape == (6, 2)
    low = MATRIX @ state["right"]  # Adam's first step is the sign of the gradient
    torch.testing.assert_close(matrix, -0.5 * low.sign() @ state["right"].T)
    torch.testing.assert_close(low.norm(dim=0), values[:2])


@pytest.mark.parametrize(
    ("side", "shape"),
    [("longer", (2, 4)), ("left", (2, 4)), ("right", (6, 2)), ("both", (2, 2))],
)
def test_galore_keeps_moments_of_fewer_numbers(side, shape):
    _, state = moved("galore", MATRIX, rank=2, side=side)
    assert state["mean"].shape == state["square"].shape == shape


def test_galore_looks_for_other_directions_now_and_then():
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    group = WeightGroup([weight], 1.0, 1.0, 0.0, True, ("a.weight",))
    optimizer = OPTIMIZERS.parse({"type": "galore", "rank": 1, "update_interval": 2}).build([group])
    found = []
    for number in range(4):
        weight.grad = torch.eye(6, 4) * torch.eye(4)[number // 2]
        optimizer.step()
        found.append(optimizer.state[weight]["right"].argmax().item())
    assert found == [0, 0, 1, 1]


def test_matrices_that_are_small_or_not_named_are_moved_by_adamw():
    plain, _ = moved("adamw", MATRIX)
    for options in ({"rank": 4}, {"rank": 2, "targets": ["q_proj"]}):
        matrix, state = moved("galore", MATRIX, scale=1.0, **options)
        assert ("right" in state) == ("targets" in options)
        assert torch.allclose(matrix, plain) == ("targets" not in options)
    with pytest.raises(ConfigError, match="no trained matrix is called 'k_proj'. Known: q_proj"):
        moved("galore", MATRIX, rank=2, targets=["k_proj"])


@pytest.mark.parametrize("directions", ["random", "main"])
def test_apollo_moves_along_the_gradient_as_far_as_adam_would(directions):
    matrix, state = moved("apollo", MATRIX, rank=3, directions=directions)
    factors = -matrix / MATRIX
    torch.testing.assert_close(factors, factors[:, :1].expand(6, 4))  # one for each channel
    assert state["mean"].shape == (6, 3)
    assert ("right" in state) == (directions == "main")
    whole, _ = moved("apollo", MATRIX, rank=3, directions=directions, per="tensor", scale=4.0)
    factors = -whole / MATRIX
    torch.testing.assert_close(factors, factors[0, 0].expand(6, 4))
    low = MATRIX @ (state["right"] if directions == "main" else torch.zeros(4, 3))
    if directions == "main":
        assert float(factors[0, 0]) == pytest.approx(2 * (18**0.5) / float(low.norm()), rel=1e-4)


def test_an_update_of_apollo_is_hardly_longer_than_the_one_before():
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    group = WeightGroup([weight], 1.0, 1.0, 0.0, True, ("a.weight",))
    optimizer = OPTIMIZERS.parse({"type": "apollo", "rank": 2}).build([group])
    lengths, before = [], torch.zeros(6, 4)
    for size in (1.0, 100.0, 100.0):
        weight.grad = size * MATRIX
        optimizer.step()
        lengths.append(float((weight.detach() - before).norm()))
        before = weight.detach().clone()
    assert lengths[1] <= 1.011 * lengths[0]
    assert lengths[2] <= 1.011 * lengths[1]


def test_adam_mini_keeps_one_square_a_row():
    matrix, state = moved("adam_mini", MATRIX)
    assert (state["mean"].shape, state["square"].shape) == ((6, 4), (6, 1))
    expected = -MATRIX / MATRIX.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(matrix, expected)


def test_badam_trains_one_layer_after_the_other(tiny):
    model = full(tiny)
    groups = [group for group, _ in names_by_group(model)]
    part = {"type": "badam", "switch_interval": 2, "order": "descending"}
    optimizer = OPTIMIZERS.parse(part).build(groups)
    trained, turns = model.trainable(), []
    for _ in range(4):
        before = {name: weight.detach().clone() for name, weight in trained.items()}
        sum(weight.square().sum() for weight in trained.values()).backward()
        with_gradient = {name for name, weight in trained.items() if weight.grad is not None}
        optimizer.step()
        changed = {name for name in trained if not torch.equal(before[name], trained[name])}
        assert changed == with_gradient
        turns.append({name.split(".")[2] for name in changed})
        kept = {name for name, w in trained.items() if "mean" in optimizer.state.get(w, {})}
        assert kept == changed
        optimizer.zero_grad()
    assert turns == [{"1"}, {"1"}, {"0"}, {"0"}]


def test_badam_says_what_cannot_take_turns(tiny):
    groups = [group for group, _ in names_by_group(full(tiny))]
    with pytest.raises(ConfigError, match="start_layer is 7, and the layers that train are 0 to 1"):
        OPTIMIZERS.parse({"type": "badam", "start_layer": 7}).build(groups)
    with pytest.raises(ConfigError, match="no weight that trains lies in a layer"):
        OPTIMIZERS.parse("badam").build([])


def test_the_turns_of_badam():
    from llama_factory.training.optimizers.badam import BAdam

    layers = [2, 3, 5]
    assert [BAdam()._turn(layers, n) for n in range(4)] == [2, 3, 5, 2]
    assert [BAdam(order="descending")._turn(layers, n) for n in range(4)] == [5, 3, 2, 5]
    assert [BAdam(order="fixed", start_layer=3)._turn(layers, n) for n in range(3)] == [3, 3, 3]
    drawn = [BAdam(order="random")._turn(layers, n) for n in range(6)]
    assert sorted(drawn[:3]) == sorted(drawn[3:]) == layers
