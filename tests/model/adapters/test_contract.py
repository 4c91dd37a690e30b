"""What every adapter must do: train only what it names, be saved for plain PEFT, go on exactly."""

import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.padding import IGNORED
from tests.model.adapting import FORMS, IDS, OWN_WEIGHTS, Heard, fit, logits, make, weights
from tests.tiny import make_tiny_model

NUM_TRAINED = {
    "lora": 2 * 4 * 512,  # two layers, rank x (inputs + outputs) of seven linear layers
    "rslora": 2 * 4 * 512,
    "dora": 2 * (4 * 512 + 256),  # and one length an output
    "pissa": 2 * 4 * 512,
    "quick pissa": 2 * 4 * 512,
    "olora": 2 * 4 * 512,
    "ia3": 2 * (16 + 16 + 64),  # keys, values, inside of the feed-forward block
    "oft": 2 * (256 // 8) * 28,  # inputs in blocks of 8, each with 8 x 7 / 2 angles
    "bottleneck": 2 * 2 * (2 * 8 * 32 + 8 + 32),  # two halves and their biases, in two places
    "prompt": 4 * 32,
    "freeze": 9216 + 64,  # the matrices and two norms of one layer
}
"""In the tiny llama: width 32, feed-forward 64, keys and values 16."""


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt_neox", marks=pytest.mark.slow)])
def base(request, tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


def load_plain(base, folder, form):
    """As someone without this program would."""
    if form in OWN_WEIGHTS:
        return AutoModelForCausalLM.from_pretrained(folder)
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))


def test_every_registered_adapter_is_under_this_contract():
    # those beside packed weights are in test_packed.py
    assert {form["type"] for form in FORMS.values()} == set(ADAPTERS.parts) - {"qlora", "qoft"}


@pytest.mark.parametrize("form", NUM_TRAINED)
def test_as_many_weights_train_as_the_paper_says(tmp_path, form):
    model = make(make_tiny_model(tmp_path / "llama"), form)
    assert sum(weight.numel() for weight in model.trainable().values()) == NUM_TRAINED[form]


@pytest.fixture(scope="module", params=FORMS)
def taught(request, base, tmp_path_factory):
    """A form of adapter on a base, its weights before two steps of training, and what was saved."""
    folder = tmp_path_factory.mktemp("taught")
    model = make(base, request.param)
    before = weights(model.network)
    fit(model, folder)
    model.save(folder / "out")
    return request.param, model, before, folder / "out"


def test_training_changes_what_trains_and_nothing_else(base, taught):
    form, model, before, _ = taught
    after, trained = weights(model.network), set(model.trainable())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert changed <= trained
    if form not in OWN_WEIGHTS:
        plain = AutoModelForCausalLM.from_pretrained(base)
        frozen = sum(weight.numel() for name, weight in after.items() if name not in trained)
        assert frozen >= sum(weight.numel() for weight in plain.parameters())
        with model.network.disable_adapter():
            assert torch.equal(logits(model.network), logits(plain))


def test_what_is_saved_answers_the_same_in_plain_libraries(base, taught):
    form, model, _, folder = taught
    plain = load_plain(base, folder, form)
    torch.testing.assert_close(logits(plain), logits(model.network), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(plain), logits(AutoModelForCausalLM.from_pretrained(base)))
    if form in OWN_WEIGHTS:
        assert AutoTokenizer.from_pretrained(folder).chat_template


def test_training_sees_the_same_probabilities_as_the_model_gives(taught):
    _, model, _, _ = taught
    model.network.eval()
    targets = IDS.roll(-1, 1)
    targets[:, -1] = IGNORED
    with torch.no_grad():
        seen = TokenLogProbs(model.network)(IDS, targets)
    given = logits(model.network)[:, :-1].log_softmax(-1)
    given = given.gather(2, IDS[:, 1:, None]).flatten()
    torch.testing.assert_close(seen, given, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_next_round_goes_on_where_the_last_one_ended(base, taught, tmp_path):
    form, model, _, folder = taught
    if form in OWN_WEIGHTS:
        pytest.skip("a whole model is a base of its own, not a parent")
    again = make(base, form, parent=folder)
    torch.testing.assert_close(logits(again.network), logits(model.network), rtol=1e-4, atol=1e-4)
    before = weights(again.network)
    fit(again, tmp_path)
    assert any(not torch.equal(before[name], weight) for name, weight in again.trainable().items())
    again.save(tmp_path / "out")
    third = make(base, form, parent=tmp_path / "out")
    torch.testing.assert_close(logits(third.network), logits(again.network), rtol=1e-4, atol=1e-4)


@pytest.mark.variants
@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(base, tmp_path, form):
    whole = fit(make(base, form), tmp_path, max_steps=4, checkpoint_steps=2)
    shutil.rmtree(tmp_path / "checkpoints/step-00000004")
    heard = Heard()
    resumed = fit(make(base, form), tmp_path, heard, max_steps=4, checkpoint_steps=2)
    assert any("after step 2 of 4" in line for line in heard.lines)
    again = resumed.model.trainable()
    for name, weight in whole.model.trainable().items():
        torch.testing.assert_close(again[name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.variants
@pytest.mark.parametrize(
    "form", ["lora", "dora", "pissa", "olora", "ia3", "oft", "bottleneck", "full"]
)
def test_a_fresh_adapter_answers_as_the_base_model_does(base, form):
    plain = logits(AutoModelForCausalLM.from_pretrained(base))
    torch.testing.assert_close(logits(make(base, form).network), plain, rtol=1e-4, atol=1e-4)
