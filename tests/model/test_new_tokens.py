"""New tokens get rows that start at what they mean, train alone, and are saved with the adapter."""

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_factory.core.errors import ModelError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.model import provenance
from llama_factory.model.base import load_network, load_tokenizer
from llama_factory.model.export import export
from llama_factory.model.new_tokens import make_room
from llama_factory.model.saved import find_adapters
from llama_factory.model.settings import ExportOptions, ModelSettings
from tests.model.adapting import logits, settings
from tests.model.test_provenance import OPTIONS, begin, reopened, shake
from tests.tiny import ARCHITECTURES, make_tiny_model

WORDS = {"new_tokens": ["退货政策", "parcelback"], "new_special_tokens": ["<|tool|>"]}
LORA = {"type": "lora", "rank": 4}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A model whose output head is its embeddings."""
    folder = make_tiny_model(tmp_path_factory.mktemp("tied"))
    network = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=True)
    network.tie_weights()
    network.save_pretrained(folder)
    return folder


def asked(tokenizer):
    """Rows of token ids with every new token in them."""
    found = tokenizer("我的退货政策 parcelback <|tool|>", add_special_tokens=False)["input_ids"]
    return torch.tensor([found[:6]])


def saved_with_tokens(base, folder, form=LORA, **options):
    """A trained adapter with new tokens, its ids to ask with and its answers."""
    model = begin(base, form, **WORDS, **options)
    shake(model, 1)
    model.save(folder)
    model.tokenizer.save_pretrained(folder)
    ids = asked(model.tokenizer)
    return ids, logits(model.network, ids)


def test_each_new_token_is_one_token_with_a_row_in_both_tables(llama):
    before = len(load_tokenizer(llama))
    model = begin(llama, LORA, **WORDS)
    for word in (*WORDS["new_tokens"], *WORDS["new_special_tokens"]):
        assert len(model.tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    shown = model.tokenizer.decode(asked(model.tokenizer)[0], skip_special_tokens=True)
    assert "退货政策" in shown
    assert "tool" not in shown
    base = model.network.get_base_model()
    assert base.config.vocab_size == len(model.tokenizer) == before + 3
    assert base.get_output_embeddings().weight.shape[0] == before + 3


def test_a_new_row_is_the_mean_of_the_rows_that_spelt_it(llama):
    old, plain = load_tokenizer(llama), load_network(llama, settings(llama))
    pieces = old("退货政策", add_special_tokens=False)["input_ids"]
    base = begin(llama, LORA, **WORDS).network.get_base_model()
    for get in ("get_input_embeddings", "get_output_embeddings"):
        row = getattr(base, get)().weight[len(old)]
        torch.testing.assert_close(row, getattr(plain, get)().weight[pieces].mean(0))


def test_only_the_rows_of_new_tokens_train_and_are_saved(llama, tmp_path):
    model = begin(llama, LORA, **WORDS)
    rows = [weight.shape for name, weight in model.trainable().items() if "trainable_tok" in name]
    assert rows == [(3, 32), (3, 32)]
    model.save(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        assert max(file.get_slice(name).get_shape()[0] for name in file.keys()) < 100  # noqa: SIM118


def test_answers_to_old_tokens_stay_what_they_were(llama):
    before = logits(load_network(llama, settings(llama)))
    after = logits(begin(llama, LORA, **WORDS).network)
    torch.testing.assert_close(after[..., : before.shape[-1]], before)


@pytest.mark.variants
@pytest.mark.parametrize(
    "form", [LORA, {"type": "lora", "rank": 4, "init": "pissa"}, "freeze", "full"]
)
def test_what_was_saved_answers_the_same_when_it_is_opened_again(llama, tmp_path, form):
    ids, answers = saved_with_tokens(llama, tmp_path / "a", form)
    saved = find_adapters(str(tmp_path / "a"), None, ModelSettings(dtype="float32"))
    model = saved.open(OPTIONS)
    assert torch.equal(asked(model.tokenizer), ids)
    torch.testing.assert_close(logits(model.network, ids), answers, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_tied_head_trains_with_the_embeddings(tied, tmp_path):
    model = begin(tied, LORA, **WORDS)
    assert sum("trainable_tok" in name for name in model.trainable()) == 1
    ids, answers = saved_with_tokens(tied, tmp_path / "a")
    network = find_adapters(str(tmp_path / "a"), None, ModelSettings(dtype="float32"))
    torch.testing.assert_close(
        logits(network.open(OPTIONS).network, ids), answers, rtol=1e-3, atol=1e-3
    )


@pytest.mark.variants
@pytest.mark.parametrize("base", ["llama", "tied"])
def test_an_export_needs_no_adapter_and_knows_the_tokens(base, tmp_path, request):
    ids, answers = saved_with_tokens(request.getfixturevalue(base), tmp_path / "a")
    saved = find_adapters(str(tmp_path / "a"), None, ModelSettings(dtype="float32"))
    turns = (Message("user", "退货政策？"), Message("assistant", "parcelback <|tool|>"))
    rows = [Example(turns, "g", "f", number) for number in range(8)]
    done = export(saved, tmp_path / "out", rows, options=ExportOptions("float32"), progress=SILENT)
    assert done.parity.holds
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.config.tie_word_embeddings == (base == "tied")
    assert torch.equal(asked(AutoTokenizer.from_pretrained(tmp_path / "out")), ids)
    torch.testing.assert_close(logits(merged, ids), answers, rtol=1e-3, atol=1e-3)


def test_training_goes_on_with_the_tokens_of_the_saved_adapter(llama, tmp_path):
    ids, answers = saved_with_tokens(llama, tmp_path / "a")
    model = begin(llama, LORA, tmp_path / "a", **WORDS)
    torch.testing.assert_close(logits(model.network, ids), answers, rtol=1e-3, atol=1e-3)
    assert sum("trainable_tok" in name for name in model.trainable()) == 2


@pytest.mark.slow
def test_a_new_adapter_may_add_more_tokens_to_those_it_is_trained_on(llama, tmp_path):
    saved_with_tokens(llama, tmp_path / "a")
    more = {"new_tokens": [*WORDS["new_tokens"], "快递包裹"]}
    model = begin(llama, LORA, tmp_path / "a", new=True, **more)
    shake(model, 2)
    model.save(tmp_path / "b")
    model.tokenizer.save_pretrained(tmp_path / "b")
    torch.testing.assert_close(
        reopened(str(tmp_path / "b"))[1], logits(model.network), rtol=1e-3, atol=1e-3
    )


def test_more_tokens_than_the_adapter_that_goes_on_has_are_refused(llama, tmp_path):
    saved_with_tokens(llama, tmp_path / "a")
    with pytest.raises(ModelError, match="model.new_tokens: '.+' are new to the adapter in"):
        begin(llama, LORA, tmp_path / "a", new_tokens=["newer"])


@pytest.mark.parametrize("form", ["ia3", "oft", "prompt"])
def test_adapters_that_cannot_train_rows_say_so(llama, form):
    with pytest.raises(ModelError) as error:
        begin(llama, form, **WORDS)
    assert "does not train the rows of new tokens (3 of them). Use lora or full" in str(error.value)


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_new_tokens_or_says_why_not(architecture, tmp_path):
    base = make_tiny_model(tmp_path / "base", architecture)
    if architecture == "phi":
        with pytest.raises(ModelError, match="lm_head of this model adds a bias, and rows of new"):
            begin(base, LORA, **WORDS)
        return
    ids, answers = saved_with_tokens(base, tmp_path / "a")
    network = find_adapters(str(tmp_path / "a"), None, ModelSettings(dtype="float32"))
    found = logits(network.open(OPTIONS).network, ids)
    torch.testing.assert_close(found, answers, rtol=1e-3, atol=1e-3)


def test_an_adapter_with_new_tokens_is_refused_beside_the_untouched_base(llama, tmp_path):
    saved_with_tokens(llama, tmp_path / "a")
    with pytest.raises(ModelError, match="only with new tokens in its vocabulary, so it cannot an"):
        provenance.require_plain(tmp_path / "a")


def test_a_tokenizer_with_more_tokens_than_rows_gets_them_where_asked_and_they_train(
    llama, tmp_path
):
    network, tokenizer = load_network(llama, settings(llama)), load_tokenizer(llama)
    network.save_pretrained(tmp_path)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(tmp_path)
    assert not any("trainable_tok" in name for name in begin(tmp_path, LORA).trainable())
    model = begin(tmp_path, LORA, resize_vocab=True)
    assert [w.shape for n, w in model.trainable().items() if "trainable_tok" in n] == [(1, 32)] * 2
    assert make_room(network, tokenizer) == range(len(tokenizer) - 1, len(tokenizer))


def test_what_is_a_token_already_is_left_alone(llama):
    model = begin(llama, LORA, new_tokens=[" the", "<|im_end|>"])
    assert len(model.tokenizer) == len(load_tokenizer(llama))
    assert model.network.active_peft_config.trainable_token_indices is None


def test_a_token_without_text_is_told():
    with pytest.raises(ValidationError, match="a token must have text, and one of"):
        ModelSettings(new_tokens=["a", " "])
