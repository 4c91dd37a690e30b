"""What makes each adapter what its paper says, and how it combines with frozen layers."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from llama_factory.model.layers import repeated_blocks
from tests.model.adapting import FORMS, IDS, OWN_WEIGHTS, fit, logits, make
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def lora_layer(model):
    return next(m for m in model.network.modules() if hasattr(m, "lora_A") and len(m.lora_A))


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(("is_rslora", "scale"), [(False, 12 / 9), (True, 12 / 3)])
def test_rslora_divides_alpha_by_the_root_of_the_rank(llama, is_rslora, scale):
    form = {"type": "lora", "rank": 9, "alpha": 12, "use_rslora": is_rslora}
    layer = lora_layer(make(llama, form))
    x = torch.randn(3, layer.in_features)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    product = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    torch.testing.assert_close(layer(x) - layer.base_layer(x), scale * product)


def test_dora_trains_the_lengths_of_the_weights(llama, tmp_path):
    model = make(llama, "dora")
    layer = lora_layer(model)
    lengths = layer.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(lengths, layer.base_layer.weight.norm(dim=1))
    before = lengths.detach().clone()
    fit(model, tmp_path)
    assert (lengths != before).all()


@pytest.mark.parametrize("form", ["pissa", "quick pissa"])
def test_pissa_starts_at_the_largest_singular_parts_and_leaves_the_base_alone(llama, form):
    layer = lora_layer(make(llama, form))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    product = layer.scaling["default"] * b @ a
    rest = (layer.base_layer.weight - product).norm()
    best = torch.linalg.svdvals(layer.base_layer.weight)[4:].norm()
    torch.testing.assert_close(rest, best, rtol=1e-4 if form == "pissa" else 0.02, atol=0)


@pytest.mark.variants
@pytest.mark.parametrize("form", ["pissa", "quick pissa", "olora"])
def test_starts_inside_the_weights_are_saved_as_a_plain_lora_of_twice_the_rank(
    llama, tmp_path, form
):
    model = make(llama, form)
    fit(model, tmp_path)
    model.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert saved["r"] == 8
    assert saved["init_lora_weights"] is True
    merged = PeftModel.from_pretrained(plain(llama), str(tmp_path / "out")).merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model.network), rtol=1e-3, atol=1e-3)


def test_dropout_leaves_out_parts_of_what_pissa_trains_only(llama):
    model = make(llama, {"type": "lora", "rank": 4, "init": "pissa", "dropout": 0.5})
    layer = lora_layer(model)
    assert layer.lora_dropout["default"].p == 0.5
    assert not getattr(layer.lora_dropout["start"], "p", 0.0)


def test_a_vector_before_every_row_changes_what_is_generated(llama, tmp_path):
    model = make(llama, "prompt")
    model.network.eval()
    fresh = greedy(model.network)
    fit(model, tmp_path, learning_rate=0.5, max_steps=3)
    model.network.eval()
    taught = greedy(model.network)
    assert taught != fresh
    # The same tokens one by one, from the logits of whole rows.
    ids = IDS[:1]
    for token in taught:
        best = int(logits(model.network, ids)[0, -1].argmax())
        assert best == token
        ids = torch.cat([ids, torch.tensor([[best]])], dim=1)
    with model.network.disable_adapter():
        assert greedy(model.network) == greedy(plain(llama))


def greedy(network):
    ids = IDS[:1]
    with torch.no_grad():
        out = network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
        )
    return out[0, -6:].tolist()


def test_prompt_tuning_can_start_at_a_text(llama):
    model = make(llama, {"type": "prompt", "num_tokens": 3, "text": "今天的天气很好"})
    (vectors,) = model.trainable().values()
    tokens = model.tokenizer("今天的天气很好", add_special_tokens=False).input_ids
    embeddings = model.network.get_base_model().get_input_embeddings().weight
    torch.testing.assert_close(vectors, (embeddings[(tokens * 3)[:3]]))


@pytest.mark.variants
@pytest.mark.parametrize("form", [name for name in FORMS if name not in ("prompt", "freeze")])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_frozen_layers_carry_no_trained_weight(tmp_path, form, architecture):
    model = make(make_tiny_model(tmp_path / architecture, architecture), form, freeze_layers=1)
    base = model.network if form in OWN_WEIGHTS else model.network.get_base_model()
    _, blocks = repeated_blocks(base)
    assert not [name for name, w in blocks[0].named_parameters() if w.requires_grad]
    assert [name for name, w in blocks[1].named_parameters() if w.requires_grad]


@pytest.mark.slow
def test_layers_frozen_later_keep_what_their_adapter_learned(llama, tmp_path):
    model = make(llama)
    fit(model, tmp_path)
    model.save(tmp_path / "out")
    again = make(llama, parent=tmp_path / "out", freeze_layers=1)
    assert again.trainable()
    assert all(".layers.1." in name for name in again.trainable())
    assert torch.equal(logits(again.network), logits(model.network))


def test_full_with_frozen_layers_freezes_the_embeddings_below_them(llama):
    names = make(llama, "full", freeze_layers=1).trainable()
    assert not [name for name in names if "embed_tokens" in name or ".layers.0." in name]
    assert "lm_head.weight" in names


@pytest.mark.parametrize(
    ("form", "trained"),
    [
        ({"type": "freeze"}, {"0", "1"}),
        ({"type": "freeze", "highest": 1}, {"1"}),
        ({"type": "freeze", "lowest": 1}, {"0"}),
        ({"type": "freeze", "highest": 1, "lowest": 1}, {"0", "1"}),
        ({"type": "freeze", "extra_modules": ["lm_head"]}, {"lm_head"}),
        ({"type": "freeze", "highest": 1, "extra_modules": ["norm"]}, {"1", "norm"}),
    ],
)
def test_freeze_trains_the_layers_it_names(llama, form, trained):
    names = make(llama, form).trainable()
    places = {
        n.split(".")[2] if ".layers." in n else n.removesuffix(".weight").split(".")[-1]
        for n in names
    }
    assert places == trained


def test_freeze_trains_the_named_parts_of_its_layers(llama):
    form = {"type": "freeze", "highest": 1, "modules": ["self_attn", "mlp.down_proj"]}
    parts = {name.removeprefix("model.layers.1.") for name in make(llama, form).trainable()}
    attention = {f"self_attn.{part}_proj.weight" for part in "qkvo"}
    assert parts == attention | {"mlp.down_proj.weight"}


def test_own_weights_train_in_float32_and_say_so(llama):
    model = make(llama, "full", dtype="bfloat16")
    assert {weight.dtype for weight in model.trainable().values()} == {torch.float32}
    told = "bfloat16, as set; what trains and the optimizer stay in float32"
    assert str(model.precision) == told


@pytest.mark.variants
@pytest.mark.parametrize("form", ["lora", "dora", "pissa", "ia3", "oft", "prompt"])
def test_adapters_train_in_float32_on_a_bfloat16_base(llama, tmp_path, form):
    model = make(llama, form, dtype="bfloat16")
    assert {weight.dtype for weight in model.trainable().values()} == {torch.float32}
    fit(model, tmp_path)
    assert all(torch.isfinite(weight).all() for weight in model.trainable().values())


def test_excluded_layers_carry_no_adapter(llama):
    form = {"type": "lora", "rank": 4, "exclude": ["q_proj", "mlp.up_proj"]}
    names = " ".join(make(llama, form).trainable())
    assert "k_proj" in names
    assert "q_proj" not in names
    assert "up_proj" not in names


@pytest.mark.slow
def test_embeddings_and_head_can_be_trained_and_saved_with_the_adapter(llama, tmp_path):
    form = {"type": "lora", "rank": 4, "modules_to_save": ["embed_tokens", "lm_head"]}
    model = make(llama, form)
    fit(model, tmp_path)
    model.save(tmp_path / "out")
    again = PeftModel.from_pretrained(plain(llama), str(tmp_path / "out"))
    torch.testing.assert_close(logits(again), logits(model.network), rtol=1e-4, atol=1e-4)
    head = again.get_base_model().get_output_embeddings().weight
    assert not torch.equal(head, plain(llama).lm_head.weight)
