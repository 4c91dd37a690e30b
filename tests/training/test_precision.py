"""Losses, gradients and steps in short number formats, beside float32."""

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from llama_factory.core.files import read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.dtypes import Precision, choose
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.settings import ModelSettings
from llama_factory.training.fabrics import alone
from llama_factory.training.loop import Protection, TrainingFolders, train
from llama_factory.training.loss_scale import (
    ScaledPrecision,
    lower_scale,
    mixed,
    restore_scale,
    scale_state,
    unscale,
)
from llama_factory.training.settings import TrainingSettings

FLOAT16 = Precision(torch.float16, "as set")


def make(tiny, dtype, adapter="lora"):
    settings = ModelSettings(base_model=str(tiny), dtype=dtype, adapter=adapter)
    model = adapt(settings, None, options=EncodeOptions(64), seed=0)
    with torch.no_grad():
        for name, weight in model.trainable().items():
            if "lora_B" in name:  # at zero, A would have no gradient
                generator = torch.Generator().manual_seed(len(name))
                weight.normal_(0, 0.05, generator=generator)
    return model


def gradients(model, fabric):
    module = fabric.setup(TokenLogProbs(model.network))
    ids = torch.randint(1, 300, (3, 24), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    loss = -module(ids, targets).mean()
    fabric.backward(loss)
    found = torch.cat([weight.grad.flatten() for weight in model.trainable().values()])
    return loss.item(), found


@pytest.mark.variants
@pytest.mark.parametrize("adapter", ["lora", {"type": "lora", "use_dora": True}, "full"])
@pytest.mark.parametrize("dtype", ["bfloat16", "pure_bfloat16"])
def test_loss_and_gradient_are_those_of_float32_within_rounding(tiny, dtype, adapter):
    model = make(tiny, "float32", adapter)
    loss, exact = gradients(model, alone(model))
    model = make(tiny, dtype, adapter)
    rounded_loss, rounded = gradients(model, alone(model))
    assert rounded_loss == pytest.approx(loss, rel=0.01)
    assert rounded_loss != loss
    cosine = torch.nn.functional.cosine_similarity(rounded.float(), exact, dim=0)
    assert cosine > 0.99
    assert rounded.dtype == (torch.bfloat16 if dtype.startswith("pure") else torch.float32)


def bytes_kept(model):
    """What a forward pass of 64 tokens keeps for its backward pass."""
    module = alone(model).setup(TokenLogProbs(model.network))
    kept, alive = {}, []

    def keep(tensor):
        alive.append(tensor)  # or a freed address is counted once
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.arange(1, 65)[None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive.append(module(ids, ids.roll(-1, 1)))
    return sum(kept.values())


def test_layers_with_one_input_keep_it_once(tiny):
    model = make(tiny, "bfloat16")
    shared = bytes_kept(model)
    for layer in model.network.modules():
        layer.__dict__.pop("_cast_input_dtype", None)
    width, num_layers = 32, 2
    # q, k and v share one input, gate and up another: three copies less in a layer
    assert bytes_kept(model) - shared >= 64 * 2 * width * num_layers * (2 + 1)


def test_without_autocast_lora_takes_inputs_as_its_weights_are(tiny):
    model = make(tiny, "bfloat16")
    ids = torch.arange(1, 9)[None]
    (-TokenLogProbs(model.network)(ids, ids.roll(-1, 1)).sum()).backward()
    grads = [weight.grad for weight in model.trainable().values()]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


def test_products_are_short_while_own_weights_stay_long(tiny):
    model = make(tiny, "bfloat16", "full")
    seen = []
    linear = model.network.model.layers[0].mlp.up_proj
    linear.register_forward_hook(lambda _, args, output: seen.append(output.dtype))
    gradients(model, alone(model))
    assert seen[-1] == torch.bfloat16
    assert linear.weight.dtype == torch.float32


def test_float32_and_pure_formats_need_no_autocast():
    assert mixed(choose("float32"), "cpu") is None
    assert mixed(choose("pure_bfloat16"), "cpu") is None


class Line(nn.Module):
    """A function with one weight and a loss that overflows float16 once it is scaled."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0]]))

    def forward(self, values):
        return values @ self.weight


def scaled_run():
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[mixed(FLOAT16, "cpu")])
    line = Line()
    module, optimizer = fabric.setup(line, torch.optim.AdamW(line.parameters(), fused=True))
    return fabric, line, module, optimizer


def backward(fabric, module, size):
    loss = module(torch.tensor([[1.0]])).sum() * size
    fabric.backward(loss)


def test_scaled_gradients_are_clipped_in_their_true_size():
    fabric, line, module, optimizer = scaled_run()
    backward(fabric, module, 0.5)
    assert float(line.weight.grad) == 0.5 * scale_state(fabric)["scale"]
    unscale(fabric, optimizer.optimizer)
    norm = fabric.clip_gradients(module, optimizer, max_norm=0.1, error_if_nonfinite=False)
    assert float(norm) == pytest.approx(0.5)
    assert float(line.weight.grad) == pytest.approx(0.1, rel=1e-3)
    optimizer.step()
    assert float(line.weight.detach()) < 2


def test_an_overflow_lowers_the_scale_until_the_update_succeeds():
    fabric, _, module, optimizer = scaled_run()
    first, num_tries = None, 0
    while True:
        backward(fabric, module, 3.0)
        first = first or scale_state(fabric)["scale"]
        norm = fabric.clip_gradients(module, optimizer, max_norm=9.0, error_if_nonfinite=False)
        if norm.isfinite():
            break
        assert lower_scale(fabric)
        optimizer.zero_grad()
        num_tries += 1
    assert num_tries > 0
    assert scale_state(fabric)["scale"] == first / 2**num_tries
    assert float(norm) == pytest.approx(3.0)


def test_a_scale_of_one_cannot_be_lowered():
    fabric, _, module, optimizer = scaled_run()
    answers = []
    for _ in range(20):
        backward(fabric, module, float("inf"))
        fabric.clip_gradients(module, optimizer, max_norm=9.0, error_if_nonfinite=False)
        optimizer.zero_grad()
        answers.append(lower_scale(fabric))
    assert answers[0] is True
    assert answers[-1] is False
    assert scale_state(fabric)["scale"] == 1.0


def test_finite_gradients_are_no_reason_to_lower_the_scale():
    fabric, _, module, optimizer = scaled_run()
    backward(fabric, module, 0.01)
    unscale(fabric, optimizer.optimizer)
    assert not lower_scale(fabric)


def test_a_restored_scale_goes_on_where_it_was():
    fabric, *_ = scaled_run()
    state = scale_state(fabric) | {"scale": 8.0, "_growth_tracker": 5}
    restore_scale(fabric, state)
    assert scale_state(fabric) == state


def test_without_float16_there_is_no_scale(tiny):
    fabric = alone(make(tiny, "bfloat16"))
    assert scale_state(fabric) == {}
    restore_scale(fabric, {})
    assert not lower_scale(fabric)


def test_float16_products_with_scaling_give_the_gradient_of_float32(tiny):
    model = make(tiny, "float32")
    _, exact = gradients(model, alone(model))
    model = replace(make(tiny, "float32"), precision=FLOAT16)
    fabric = alone(model)
    assert isinstance(fabric.strategy.precision, ScaledPrecision)
    _, found = gradients(model, fabric)
    scale = scale_state(fabric)["scale"]
    cosine = torch.nn.functional.cosine_similarity(found / scale, exact, dim=0)
    assert cosine > 0.999
    assert float((found / scale).norm()) == pytest.approx(float(exact.norm()), rel=0.01)


def examples(count):
    turns = [
        (Message("user", f"第{i}题？"), Message("assistant", f"It is {i}. " * (1 + i % 5)))
        for i in range(count)
    ]
    return [Example(pair, "g", "f.jsonl", i) for i, pair in enumerate(turns)]


def course(model, path):
    """Losses of a run by the loop."""
    folders = TrainingFolders(path / "c", path / "metrics.jsonl", path / "runs", path / "tokens")
    settings = TrainingSettings(learning_rate=1e-2, max_steps=5, report_to=[])
    trained = train(model, examples(13), settings, Protection(), folders=folders, progress=SILENT)
    assert trained.position.num_skipped == 0
    return [row["loss"] for row in read_jsonl(path / "metrics.jsonl")]


@pytest.mark.variants
@pytest.mark.parametrize("precision", [FLOAT16, choose("bfloat16")], ids=["float16", "bfloat16"])
def test_a_run_in_a_short_format_learns_like_one_in_float32(tiny, tmp_path, precision):
    exact = course(make(tiny, "float32"), tmp_path / "float32")
    model = replace(make(tiny, "float32"), precision=precision)
    found = course(model, tmp_path / "short")
    assert found == pytest.approx(exact, rel=0.03)
    assert found != exact
