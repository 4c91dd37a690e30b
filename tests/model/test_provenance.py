"""What a saved adapter was trained on is kept beside it, honoured, and required."""

import json

import pytest
import torch

from llama_factory.core.errors import ModelError
from llama_factory.core.files import read_json
from llama_factory.jobs.starting import start_of
from llama_factory.model import provenance
from llama_factory.model.adapted import adapt
from llama_factory.model.base import fingerprint
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.saved import find_adapters
from llama_factory.model.settings import ModelSettings
from tests.model.adapting import logits, settings
from tests.tiny import make_tiny_model

OPTIONS = EncodeOptions(128)


def begin(base, form="lora", *paths, new=False, **options):
    """A model that starts where settings say."""
    chosen = settings(base, form, adapter_paths=list(paths), create_new_adapter=new, **options)
    start = start_of(chosen)
    return adapt(start.settings, start.parent, options=OPTIONS, seed=3, merged=start.merged)


@torch.no_grad()
def shake(model, seed):
    """Stands for a training: every trained weight changes."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.trainable().values():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)


def trained(folder, base, form="lora", *paths, seed=1, **options):
    model = begin(base, form, *paths, **options)
    shake(model, seed)
    model.save(folder)
    return logits(model.network)


def reopened(names, base=None):
    saved = find_adapters(names, base, ModelSettings(dtype="float32"))
    return saved, logits(saved.open(OPTIONS).network)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def stack(llama, tmp_path_factory):
    """`first` on the base, `second` on the first merged, `third` on both: folders and answers."""
    folder = tmp_path_factory.mktemp("stack")
    first, second, third = (folder / name for name in ("first", "second", "third"))
    return {
        first: trained(first, llama),
        second: trained(second, llama, "dora", first, new=True, seed=2),
        third: trained(third, llama, "ia3", second, new=True, seed=3),
    }


def test_an_adapter_on_a_plain_base_records_the_base_and_nothing_else(llama, stack):
    first, *_ = stack
    assert read_json(first / "trained_on.json") == {
        "base_fingerprint": fingerprint(llama),
        "merged": 0,
    }
    assert not (first / "merged_adapters").exists()


@pytest.mark.slow
def test_each_adapter_alone_answers_with_all_that_it_was_trained_on(stack):
    for number, (folder, answers) in enumerate(stack.items()):
        saved, found = reopened(str(folder))
        assert len(saved.adapters) == number + 1
        torch.testing.assert_close(found, answers, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_naming_the_merged_adapters_too_changes_nothing(stack):
    first, second, third = stack
    for names in ([first, second], [first, second, third], [second, third]):
        saved, found = reopened(",".join(map(str, names)))
        assert saved.adapters[-1] == names[-1]
        torch.testing.assert_close(found, stack[names[-1]], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_folder_is_complete_when_the_merged_adapters_are_gone(llama, tmp_path):
    trained(tmp_path / "gone", llama)
    answers = trained(tmp_path / "kept", llama, "lora", tmp_path / "gone", new=True, seed=2)
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    torch.testing.assert_close(reopened(str(tmp_path / "kept"))[1], answers, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_going_on_starts_where_the_adapter_ended_and_keeps_what_is_under_it(llama, stack, tmp_path):
    _, second, _ = stack
    model = begin(llama, "dora", second)
    torch.testing.assert_close(logits(model.network), stack[second], rtol=1e-3, atol=1e-3)
    model.save(tmp_path)
    torch.testing.assert_close(reopened(str(tmp_path))[1], stack[second], rtol=1e-3, atol=1e-3)


def test_going_on_with_the_last_of_several_merges_the_others(llama, stack):
    first, second, third = stack
    model = begin(llama, "ia3", first, second, third)
    torch.testing.assert_close(logits(model.network), stack[third], rtol=1e-3, atol=1e-3)
    assert len(model.merged) == 2


def test_what_settings_leave_open_is_taken_from_the_adapter_that_goes_on(llama, stack):
    _, second, _ = stack
    start = start_of(settings(llama, {"type": "lora"}, adapter_paths=[second]))
    assert (start.settings.adapter.rank, start.settings.adapter.use_dora) == (4, True)


def test_what_settings_say_must_fit_the_adapter_that_goes_on(llama, stack):
    first, *_ = stack
    with pytest.raises(ModelError, match="adapter.rank is 8 and the parent's adapter in .* rank 4"):
        begin(llama, {"type": "lora", "rank": 8}, first)
    with pytest.raises(ModelError, match="adapter.type is ia3 and the parent's .* of type lora"):
        begin(llama, "ia3", first)


@pytest.mark.parametrize("form", ["full", "freeze"])
def test_own_weights_train_on_merged_adapters_and_need_no_record(llama, stack, tmp_path, form):
    first, *_ = stack
    model = begin(llama, form, first, new=True)
    torch.testing.assert_close(logits(model.network), stack[first], rtol=1e-3, atol=1e-3)
    model.save(tmp_path)
    assert not (tmp_path / "trained_on.json").exists()


def test_an_adapter_of_another_base_is_refused_by_the_fingerprint(stack, tmp_path):
    other = make_tiny_model(tmp_path / "other", seed=9)
    message = r"was trained on another base model than .*: the fingerprint of the weights is \w{12}"
    for folder in stack:
        with pytest.raises(ModelError, match=message):
            begin(other, "lora", folder)
        with pytest.raises(ModelError, match="trained on"):
            reopened(str(folder), str(other))


def test_an_adapter_is_refused_on_other_merged_ones_than_its_own(llama, stack, tmp_path):
    _, second, _ = stack
    trained(tmp_path / "stranger", llama, seed=7)
    with pytest.raises(ModelError) as error:
        reopened(f"{tmp_path / 'stranger'},{second}")
    assert "with 1 other adapter(s) merged into it, which are not those named before it" in (
        str(error.value)
    )
    assert f"Name {second} first" in str(error.value)


def test_adapters_that_never_stood_on_each_other_are_added_with_a_warning(
    llama, stack, tmp_path, caplog
):
    first, *_ = stack
    trained(tmp_path / "aside", llama, seed=7)
    saved, _ = reopened(f"{first},{tmp_path / 'aside'}")
    assert len(saved.adapters) == 2
    assert "aside was trained on the base model alone and is now added on top of" in caplog.text


def test_a_stacked_adapter_is_refused_beside_the_untouched_base(stack):
    first, second, _ = stack
    provenance.require_plain(first)
    with pytest.raises(ModelError, match="only with other adapters merged .* llama-factory export"):
        provenance.require_plain(second)


def test_a_record_that_lost_its_adapters_is_told(llama, stack, tmp_path):
    first, *_ = stack
    trained(tmp_path / "a", llama, "lora", first, new=True)
    (tmp_path / "a/merged_adapters/1/adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="merged_adapters/1 is gone. Copy the whole folder"):
        reopened(str(tmp_path / "a"))
    (tmp_path / "a/trained_on.json").write_text(json.dumps({"merged": "two"}))
    with pytest.raises(ModelError, match=r"trained_on.json is damaged and cannot be read"):
        reopened(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frist", "model.adapter_paths: .*frist is no adapter: it does not exist. Did you mean"),
        (".", "is no adapter: it holds no adapter_config.json"),
    ],
)
def test_a_path_without_an_adapter_is_told_before_the_model_is_read(stack, name, message):
    folder = next(iter(stack)).parent
    with pytest.raises(ModelError, match=message):
        begin(folder / "no model", "lora", folder / name)


def test_a_whole_model_is_no_adapter_path(llama):
    with pytest.raises(ModelError, match="holds a whole model and no adapter. Name it as"):
        begin(llama, "lora", llama)


def test_a_quantised_base_is_refused_where_its_own_weights_would_train(llama, tmp_path):
    values = read_json(llama / "config.json") | {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    for form in ("full", "freeze"):
        with pytest.raises(ModelError) as error:
            begin(tmp_path, form)
        assert f"is quantised, and adapter type {form} trains the base model's own weights" in (
            str(error.value)
        )
        assert "or train an adapter beside it (adapter type lora)" in str(error.value)


def test_an_adapter_trained_on_a_packed_base_answers_on_the_plain_one(stack):
    first, *_ = stack
    chosen = ModelSettings(dtype="float32", adapter={"type": "qlora"})
    network = find_adapters(str(first), None, chosen).open(OPTIONS).network
    torch.testing.assert_close(logits(network), stack[first], rtol=1e-3, atol=1e-3)
