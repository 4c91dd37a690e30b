import json

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, ModelError, VersionError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.evaluation.evaluator import BUILT_IN_GUARD, load_guard
from llama_factory.model.base import load_network, load_tokenizer
from llama_factory.model.chat.template import Renderer
from llama_factory.model.chat.templates import find, names
from llama_factory.model.export import export
from llama_factory.model.modelfile import modelfile, turn_format
from llama_factory.model.saved import SavedModel, find_adapters
from llama_factory.model.settings import ExportOptions, ModelSettings
from tests.tiny import make_tiny_model, make_tokenizer, random_adapter

SETTINGS = ModelSettings()
PROMPTS = load_guard(BUILT_IN_GUARD)
IDS = torch.tensor([[5, 60, 7, 80, 9, 100]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("export") / "base")


@pytest.fixture(scope="module")
def adapter(base):
    return save(base, "first", seed=1)


def save(base, name, *, seed):
    folder = base.parent / name
    random_adapter(base, seed).save_pretrained(folder)
    return folder


def write(source, output, *, base_model=None, prompts=PROMPTS, **options):
    saved = find_adapters(str(source), base_model, SETTINGS)
    return export(saved, output, prompts, options=ExportOptions(**options), progress=SILENT)


def logits(network):
    with torch.no_grad():
        return network(input_ids=IDS).logits.float()


def test_the_merged_model_says_what_the_adapter_says(base, adapter, tmp_path):
    done = write(adapter, tmp_path / "out", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-3)
    assert not torch.allclose(logits(merged), logits(plain), atol=1e-1)
    assert done.parity.agreement == 1
    assert done.num_parameters == sum(w.numel() for w in plain.parameters())


def test_the_folder_is_all_that_transformers_needs(adapter, tmp_path):
    done = write(adapter, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= found
    assert {"parity.json", "Modelfile"} <= found
    assert not [name for name in found if name.startswith((".", "adapter"))]
    assert done.num_bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": "你好"}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_parity_json_holds_the_numbers_of_the_check(adapter, tmp_path):
    done = write(adapter, tmp_path / "out", dtype="float32")
    told = files.read_json(tmp_path / "out/parity.json")
    exact = told.pop("before_rounding")
    assert told == done.parity.to_json()
    assert exact["agreement"] == 1
    assert exact["bound"] == told["bound"]
    assert told["num_prompts"] == 16
    assert told["num_positions"] > 16 * 20
    assert told["agreement"] == 1
    assert 0 <= told["max_logit_difference"] < 1e-3 < told["logit_scale"]
    assert told["relative_difference"] == told["max_logit_difference"] / told["logit_scale"]
    assert told["bound"] == {"agreement": 0.99, "difference": 0.01}


@pytest.mark.variants
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_written_in_the_number_format_asked_for(adapter, tmp_path, dtype):
    done = write(adapter, tmp_path / "out", dtype=dtype)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert {w.dtype for w in merged.parameters()} == {getattr(torch, dtype)}
    assert done.parity.dtype == dtype
    exact = files.read_json(tmp_path / "out/parity.json")["before_rounding"]
    assert exact["max_logit_difference"] < 0.1 * done.parity.max_logit_difference
    assert 0.95 < done.parity.agreement <= exact["agreement"] == 1


def test_without_a_format_that_of_the_base_model_is_kept(tmp_path):
    base = make_tiny_model(tmp_path / "base")
    network = AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16)
    network.save_pretrained(base)
    done = write(save(base, "adapter", seed=3), tmp_path / "out")
    assert done.parity.dtype == "bfloat16"


@pytest.mark.slow
def test_large_models_are_written_in_shards(base, adapter, tmp_path):
    done = write(adapter, tmp_path / "out", dtype="float32", shard_size="60KB")
    assert done.num_shards == len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert (tmp_path / "out/model.safetensors.index.json").exists()
    whole = write(adapter, tmp_path / "whole", dtype="float32")
    assert whole.num_shards == 1
    both = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("out", "whole")]
    assert torch.equal(logits(both[0]), logits(both[1]))


@pytest.mark.slow
def test_several_adapters_are_merged_in_order(base, adapter, tmp_path):
    second = save(base, "second", seed=2)
    write(f"{adapter}, {second}", tmp_path / "both", dtype="float32")
    network = AutoModelForCausalLM.from_pretrained(base)
    for folder in (adapter, second):
        network = PeftModel.from_pretrained(network, folder).merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "both")
    assert torch.allclose(logits(merged), logits(network), atol=1e-3)


def test_a_model_whose_own_weights_were_trained_is_written_as_it_is(base, tmp_path):
    done = write(base, tmp_path / "out", dtype="float32")
    both = [AutoModelForCausalLM.from_pretrained(folder) for folder in (base, tmp_path / "out")]
    assert torch.equal(logits(both[0]), logits(both[1]))
    assert done.parity.max_logit_difference == 0
    assert files.read_json(tmp_path / "out/parity.json")["before_rounding"] is None
    with pytest.raises(ModelError, match="--base: .*base holds a whole model. Leave --base out"):
        find_adapters(str(base), "smollm2", SETTINGS)


def tied_head(tmp_path):
    """A base model, and an adapter of its head, which shares the weights of the embedding."""
    base = make_tiny_model(tmp_path / "base")
    network = AutoModelForCausalLM.from_pretrained(base)
    network.config.tie_word_embeddings = True
    network.tie_weights()
    network.save_pretrained(base)
    adapted = get_peft_model(
        load_network(base, ModelSettings(dtype="float32")),
        LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


def test_a_merge_that_changes_what_is_said_is_refused(tmp_path):
    _, adapter = tied_head(tmp_path)  # merging into one of the tied layers changes both
    told = r"adapter: the merged model does not say what the adapter says.*As float32.*at \d+\.\d+%"
    with pytest.raises(ModelError, match=told):
        write(adapter, tmp_path / "out", dtype="bfloat16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


@pytest.mark.slow
def test_every_one_of_several_adapters_is_checked(tmp_path):
    base, first = tied_head(tmp_path)
    config = LoraConfig(r=4, **target("q_proj"))
    second = tmp_path / "second"
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(second)
    assert write(second, tmp_path / "out", dtype="float32").parity.holds
    with pytest.raises(ModelError, match="adapter: the merged model does not say"):
        write(f"{first},{second}", tmp_path / "both", dtype="float32")


@pytest.mark.slow
def test_weights_too_large_for_the_format_are_refused(base, tmp_path):
    network = random_adapter(base, 1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "down_proj.lora_B" in name:
                weight.mul_(1e6)
    network.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"a logit differs by nan.*Try --dtype float32"):
        write(tmp_path / "adapter", tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_an_adapter_with_a_weight_that_is_no_number_is_refused(base, tmp_path):
    network = random_adapter(base, 1)
    with torch.no_grad():
        next(w for name, w in network.named_parameters() if "lora_B" in name)[0, 0] = torch.nan
    network.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="this adapter cannot be merged: NaNs detected"):
        write(tmp_path / "adapter", tmp_path / "out")


def test_prompt_tuning_cannot_be_merged(base, tmp_path):
    network = load_network(base, ModelSettings(dtype="float32"))
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(network, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="PROMPT_TUNING .* cannot be merged"):
        write(tmp_path / "adapter", tmp_path / "out")


def test_a_folder_that_is_no_adapter_is_refused(base, adapter, tmp_path):
    with pytest.raises(ModelError, match="neither a workspace nor an adapter: it does not exist"):
        find_adapters(str(tmp_path / "none"), None, SETTINGS)
    with pytest.raises(ModelError, match=r"does not exist\. Did you mean 'first'\?"):
        find_adapters(str(adapter.with_name("frist")), None, SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"it holds no adapter_config\.json"):
        find_adapters(str(tmp_path / "empty"), None, SETTINGS)
    with pytest.raises(ModelError, match=r"base is neither .* adapter: it holds no adapter_conf"):
        find_adapters(f"{adapter},{base}", None, SETTINGS)


def change_config(adapter, folder, **values):
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def test_a_missing_base_model_is_asked_for(adapter, base, tmp_path):
    nameless = change_config(adapter, tmp_path / "a", base_model_name_or_path=None)
    with pytest.raises(ModelError, match=r"names no base model .* Name it with --base"):
        find_adapters(str(nameless), None, SETTINGS)
    moved = change_config(adapter, tmp_path / "b", base_model_name_or_path="./gone")
    with pytest.raises(ModelError, match=r"\./gone.*If it was moved, say where with --base"):
        find_adapters(str(moved), None, SETTINGS)
    assert find_adapters(str(moved), str(base), SETTINGS).base == base.resolve()
    with pytest.raises(ModelError, match="--base: 'smolm2' is neither .* Did you mean 'smollm2'"):
        find_adapters(str(moved), "smolm2", SETTINGS)


def test_a_damaged_config_is_told(adapter, tmp_path):
    folder = change_config(adapter, tmp_path / "a")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json is damaged"):
        find_adapters(str(folder), None, SETTINGS)


def test_another_base_model_than_the_adapter_was_trained_on_is_refused(adapter, base, tmp_path):
    other = make_tiny_model(tmp_path / "other", seed=7)
    with pytest.raises(ModelError, match=r"was trained on .*base .*whose weights differ"):
        write(adapter, tmp_path / "out", base_model=str(other))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert write(adapter, tmp_path / "out", base_model=str(copy)).parity.holds


def test_another_hub_model_than_the_one_trained_on_is_refused(adapter, tmp_path):
    hub = change_config(adapter, tmp_path / "a", base_model_name_or_path="Qwen/Qwen2-7B")
    with pytest.raises(ModelError, match=r"trained on Qwen/Qwen2-7B .* base model is smollm2"):
        find_adapters(str(hub), "smollm2", SETTINGS)


@pytest.mark.parametrize("architecture", ["qwen2", "bloom"])
def test_an_adapter_whose_layers_the_base_lacks_is_refused(adapter, tmp_path, architecture):
    other = make_tiny_model(tmp_path / "other", architecture)
    moved = change_config(adapter, tmp_path / "a", base_model_name_or_path="./gone")
    if architecture == "qwen2":
        network = AutoModelForCausalLM.from_pretrained(other)
        network.model.layers = network.model.layers[:1]
        network.config.num_hidden_layers = 1
        network.config.layer_types = network.config.layer_types[:1]
        network.save_pretrained(other)
    with pytest.raises(ModelError, match=r"this adapter (does not fit|cannot be loaded onto) "):
        write(moved, tmp_path / "out", base_model=str(other))


def test_a_quantised_base_is_refused(adapter, tmp_path):
    base = make_tiny_model(tmp_path / "base")
    config = files.read_json(base / "config.json") | {"quantization_config": {"bits": 4}}
    files.write_json(base / "config.json", config)
    moved = change_config(adapter, tmp_path / "a", base_model_name_or_path=None)
    with pytest.raises(ModelError, match="is quantised, and merging into rounded weights"):
        write(moved, tmp_path / "out", base_model=str(base))


def test_the_base_version_has_nothing_to_merge(base, tmp_path):
    with pytest.raises(ModelError, match="untouched base model, so there is nothing to merge"):
        export(
            SavedModel(SETTINGS, base, (), is_untouched=True),
            tmp_path / "out",
            PROMPTS,
            options=ExportOptions(),
            progress=SILENT,
        )


def test_a_folder_with_something_in_it_is_left_alone(adapter, tmp_path):
    (tmp_path / "out").mkdir()
    write(adapter, tmp_path / "out")  # an empty one is fine
    with pytest.raises(ConfigError, match=r"out exists and is not empty. Give a new folder's name"):
        write(adapter, tmp_path / "out")


def test_wrong_options_are_told(adapter, tmp_path):
    with pytest.raises(ConfigError, match=r"--dtype: 'bflaot16' .* Did you mean 'bfloat16'\?"):
        write(adapter, tmp_path / "out", dtype="bflaot16")
    with pytest.raises(ConfigError, match="--shard-size: '5 gigabytes' is no size"):
        write(adapter, tmp_path / "out", shard_size="5 gigabytes")


def test_too_few_prompts_are_refused(adapter, tmp_path):
    with pytest.raises(ModelError, match="needs 8 prompts and 3 of 3 rows can be used"):
        write(adapter, tmp_path / "out", prompts=PROMPTS[:3])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_first(adapter, tmp_path):
    base = make_tiny_model(tmp_path / "base")
    config = files.read_json(base / "config.json") | {"vocab_size": 10**15}
    files.write_json(base / "config.json", config)
    moved = change_config(adapter, tmp_path / "a", base_model_name_or_path=None)
    with pytest.raises(VersionError, match="the merged model needs about"):
        write(moved, tmp_path / "out", base_model=str(base))
    assert not list(tmp_path.glob(".out*"))


def test_generation_stops_at_the_tokenizers_end_token(adapter, tmp_path):
    base = make_tiny_model(tmp_path / "base")
    generation = files.read_json(base / "generation_config.json")
    # what some hub models carry, and Transformers refuses to save
    files.write_json(
        base / "generation_config.json", generation | {"eos_token_id": 3, "temperature": 0.6}
    )
    moved = change_config(adapter, tmp_path / "a", base_model_name_or_path=None)
    write(moved, tmp_path / "out", base_model=str(base))
    told = files.read_json(tmp_path / "out/generation_config.json")
    assert told["eos_token_id"] == [load_tokenizer(base).eos_token_id, 3]
    assert told["do_sample"] is True
    lines = (tmp_path / "out/Modelfile").read_text().splitlines()
    stops = [line for line in lines if line.startswith("PARAMETER stop")]
    assert stops[0] == 'PARAMETER stop "<|im_end|>"'
    assert len(stops) == 2


def test_the_modelfile_writes_chatml_as_ollama_wants_it():
    text = modelfile(make_tokenizer(), ["<|im_end|>"])
    assert text == (
        'FROM .\nTEMPLATE """'
        "{{ if .System }}<|im_start|>system\n{{ $.System }}<|im_end|>\n{{ end }}"
        '{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '<|im_start|>assistant\n{{ else if eq .Role "assistant" }}{{ .Content }}<|im_end|>\n'
        '{{ end }}{{ end }}"""\nPARAMETER stop "<|im_end|>"\n'
    )


TALK = [
    Message("user", "Hello?"),
    Message("assistant", "你好。"),
    Message("user", "And now?"),
]


@pytest.mark.variants
@pytest.mark.parametrize("name", sorted({find(name).name for name in names()}))
def test_ollamas_template_writes_every_known_format_exactly(name):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = find(name).jinja
    form = turn_format(tokenizer)
    told = [Message("system", "请用中文。"), *TALK]
    assert form.text(TALK) == Renderer(tokenizer).text(TALK, ask=True)
    assert form.text(told) == Renderer(tokenizer).text(told, ask=True)
    assert f'TEMPLATE """{form.go_template()}"""' in modelfile(tokenizer, [])


def test_a_system_turn_inside_the_first_question_is_written_there_once():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = find("gemma").jinja
    assert turn_format(tokenizer).go_template() == (
        '{{ $first := true }}{{ range .Messages }}{{ if eq .Role "user" }}<start_of_turn>user\n'
        "{{ if and $first $.System }}{{ $.System }}\n\n{{ end }}{{ $first = false }}{{ .Content }}"
        '<end_of_turn>\n<start_of_turn>model\n{{ else if eq .Role "assistant" }}{{ .Content }}'
        "<end_of_turn>\n{{ end }}{{ end }}"
    )


def test_the_end_of_an_answer_stands_with_the_answer():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = find("chatml").jinja
    form = turn_format(tokenizer)
    assert form.answer == ("", "<|im_end|>\n")
    assert form.user[0] == "<|im_start|>user\n"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}{{ m.role }}:{{ m.content }};{% endfor %}",
        "{% for m in messages %}{{ m.role }}{{ '{{' }}{{ m.content }};{% endfor %}",
        "{{ messages[-1].content }}",
    ],
    ids=["numbered turns", "marks of its language", "the last turn alone"],
)
def test_a_format_that_ollama_cannot_write_is_left_to_the_model_file(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    text = modelfile(tokenizer, ["a"])
    assert text.startswith("FROM .\n# No TEMPLATE: this chat format cannot be written here")
    assert text.endswith('PARAMETER stop "a"\n')


def test_plain_rows_can_be_prompts(adapter, tmp_path):
    rows = [
        Example((Message("user", f"{n}?"), Message("assistant", "是的")), "g", "f", n)
        for n in range(8)
    ]
    assert write(adapter, tmp_path / "out", prompts=rows).parity.num_prompts == 8


def noisy(network, folder):
    """Save an adapter whose weights are no longer those that change nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    network.save_pretrained(folder)
    return folder


def target(*names):
    return {"target_modules": list(names), "task_type": "CAUSAL_LM"}


@pytest.mark.variants
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, use_dora=True, **target("q_proj", "up_proj")),
        LoraConfig(r=4, use_rslora=True, **target("q_proj", "v_proj")),
        LoraConfig(r=4, init_lora_weights="pissa", **target("q_proj")),
        IA3Config(feedforward_modules=["down_proj"], **target("k_proj", "down_proj")),
        OFTConfig(r=0, oft_block_size=8, **target("q_proj", "v_proj")),
    ],
    ids=["dora", "rslora", "pissa", "ia3", "oft"],
)
def test_every_kind_of_adapter_that_changes_weights_is_merged(base, tmp_path, config):
    network = get_peft_model(load_network(base, ModelSettings(dtype="float32")), config)
    source = noisy(network, tmp_path / "adapter")
    done = write(source, tmp_path / "out", dtype="float32")
    assert done.parity.agreement > 0.999
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), source)
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-3)
    assert not torch.allclose(logits(merged), logits(plain), atol=1e-2)


@pytest.mark.slow
def test_new_tokens_of_the_adapters_tokenizer_are_kept(base, tmp_path):
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<新词>", "<other>"])
    network = load_network(base, ModelSettings(dtype="float32"))
    network.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(r=4, modules_to_save=["embed_tokens", "lm_head"], **target("q_proj"))
    trained = get_peft_model(network, config)
    source = noisy(trained, tmp_path / "adapter")
    tokenizer.save_pretrained(source)
    write(source, tmp_path / "out", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    reread = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert merged.config.vocab_size == len(reread) == len(tokenizer)
    assert len(reread("<新词>")["input_ids"]) == 1
    assert torch.allclose(logits(merged), logits(trained), atol=1e-3)
