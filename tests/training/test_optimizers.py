"""Every optimizer: it learns, and a resumed run equals an uninterrupted one."""

import shutil

import pytest
import torch
from pydantic import ValidationError

from llama_factory.core.errors import ConfigError
from llama_factory.model.adapted import AdaptedModel
from llama_factory.training import checkpoints
from llama_factory.training.optimizers import OPTIMIZERS
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import weight_groups
from tests.training.short_runs import fit, losses, make, weights

HERE = [name for name in OPTIMIZERS.parts if name != "adamw_8bit" or torch.cuda.is_available()]
RATES = {"sgd": 0.3}


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
    checkpoints.save(tmp_path, position, {"w": weight}, optimizer, scale={"scale": 8.0})
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_8_bit_adamw_says_at_once_that_it_needs_a_gpu(tiny, tmp_path):
    with pytest.raises(ConfigError, match="adamw_8bit needs a CUDA GPU and this machine has none"):
        TrainingSettings(optimizer="adamw_8bit").check()
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        fit(tiny, tmp_path, optimizer="adamw_8bit")
    assert not (tmp_path / "checkpoints").exists()


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(ValidationError, match="'adamv' is not an optimizer. Did you mean 'adamw'"):
        TrainingSettings(optimizer="adamv")


def test_options_of_an_optimizer_are_checked():
    with pytest.raises(ValidationError, match="nesterov looks ahead along a momentum"):
        TrainingSettings(optimizer={"type": "sgd", "momentum": 0, "nesterov": True})
    with pytest.raises(ValidationError, match="Did you mean 'betas'"):
        TrainingSettings(optimizer={"type": "adamw", "beta": [0.9, 0.95]})
    assert TrainingSettings(optimizer={"type": "adamw", "betas": [0.9, 0.95]}).optimizer.eps == 1e-8
