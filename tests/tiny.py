"""Models and workspaces small enough for tests: random weights, a real tokenizer, real folders."""

import copy
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from llama_factory.core import files
from llama_factory.core.times import now
from llama_factory.core.types import EvalReport, Example, Message
from llama_factory.model.base import fingerprint, load_network, load_tokenizer
from llama_factory.model.chat import masks, template
from llama_factory.model.chat.template import Renderer
from llama_factory.model.layers import target_names
from llama_factory.model.settings import ModelSettings
from llama_factory.versions import store
from llama_factory.versions.version import REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace

ARCHITECTURES = ("llama", "qwen2", "bloom", "gpt_neox", "mistral", "phi", "gemma")

MAX_TOKENS = 512
"""What a tiny model can read, where its architecture has a limit."""

START, END = "<|im_start|>", "<|im_end|>"

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "What is the refund policy of your shop?",
    "You can send the parcel back within thirty days.",
    "How many days are there in a week? There are seven days in a week.",
    "Please write a short answer to the question of the customer.",
    "你好，请问你们的退货政策是什么？",
    "您可以在三十天之内把包裹寄回来。",
    "今天的天气很好，我们一起去公园散步吧。",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{START}{{{{ message.role }}}}\n{{{{ message.content }}}}{END}\n"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with about 400 tokens and the ChatML template; one to change as one likes."""
    return copy.deepcopy(_tokenizer())


@functools.cache
def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return wrap_tokenizer(tokenizer, CHAT_TEMPLATE)


def wrap_tokenizer(inner: Tokenizer, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer as Transformers uses it, with ChatML's tokens and a chat template."""
    unknown = {"unk_token": "<unk>"} if inner.token_to_id("<unk>") is not None else {}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[START],
        **unknown,
    )
    wrapped.chat_template = template
    return wrapped


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool
) -> list[int]:
    """Token ids of a conversation; with `ask`, up to where the assistant's answer begins."""
    if ask:
        return list(template.prompt_tokens(messages, Renderer(tokenizer)).ids)
    row = Example(tuple(messages), "g", "f", 1)
    return list(masks.write(row, Renderer(tokenizer)).tokens.ids)


def make_tiny_model(
    folder: Path, architecture: str = "llama", seed: int = 0, *, num_layers: int = 2
) -> Path:
    """A random model of an architecture with its tokenizer, in Transformers' layout."""
    made = _tiny_model(architecture, seed, num_layers)
    return shutil.copytree(made, folder, dirs_exist_ok=True)


@functools.cache
def _models() -> "tempfile.TemporaryDirectory[str]":
    """Where models that were made lie for as long as the process lives."""
    return tempfile.TemporaryDirectory(prefix="tiny-models-")


@functools.cache
def _tiny_model(architecture: str, seed: int, num_layers: int) -> Path:
    """The model that folders of tests are copies of."""
    folder = Path(_models().name) / f"{architecture}-{seed}-{num_layers}"
    tokenizer = make_tokenizer()
    end = tokenizer.eos_token_id
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        tie_word_embeddings=False,
        # Wide enough that answers differ from prompt to prompt.
        initializer_range=0.3,
    )
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_workspace(folder: Path, model_folder: Path) -> Workspace:
    """A workspace that has only the base version."""
    workspace = Workspace(folder.resolve())
    for path in (workspace.inbox, workspace.quarantine, workspace.versions):
        path.mkdir(parents=True, exist_ok=True)
    files.write_text(workspace.settings, f"model:\n  base_model: {model_folder}\n")
    store.create_base(workspace, str(model_folder))
    return workspace


def publish_version(workspace: Workspace, model_folder: Path, *, marker_seed: int) -> ModelVersion:
    """Publish a version whose random adapter answers differently for each seed."""
    return publish_adapter(workspace, model_folder, random_adapter(model_folder, marker_seed))


def random_adapter(model_folder: Path, seed: int) -> PeftModel:
    """A LoRA adapter with weights large enough to change the answers."""
    network = _with_fresh_lora(model_folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3, generator=generator)
    return network


def taught_adapter(model_folder: Path, question: str, answer: str) -> PeftModel:
    """A LoRA adapter that was trained until it gives one answer to one question."""
    network = _with_fresh_lora(model_folder)
    tokenizer = load_tokenizer(model_folder)
    ids, labels = _taught_tokens(tokenizer, question, answer)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-2)
    for _ in range(200):
        loss = network(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01:
            break
    return network


def _taught_tokens(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of one row, [1, seq] each; the prompt's labels are -100."""
    asked = [Message("user", question)]
    prompt = render(tokenizer, asked, ask=True)
    whole = render(tokenizer, [*asked, Message("assistant", answer)], ask=False)
    labels = [-100] * len(prompt) + whole[len(prompt) :]
    return torch.tensor([whole]), torch.tensor([labels])


def _with_fresh_lora(model_folder: Path) -> PeftModel:
    network = load_network(model_folder, ModelSettings(dtype="float32"))
    names = target_names(network, "all")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(network, config)


def publish_adapter(workspace: Workspace, model_folder: Path, network: PeftModel) -> ModelVersion:
    """Publish an adapter as the next version of a workspace."""
    folder = workspace.building
    network.save_pretrained(str(folder / "adapter"))
    nothing = EvalReport(tasks={}, guard_perplexity=None, seconds=0.0)
    files.write_json(folder / REPORT, {"evaluation": nothing.to_json()})
    files.write_jsonl(folder / "data/held_out.jsonl", [])
    newest = store.ids(workspace)[-1]
    draft = ModelVersion(
        id=store.next_id(workspace),
        parent=newest,
        created=now(),
        base_model=str(model_folder),
        base_fingerprint=fingerprint(model_folder),
        data_fingerprint="",
        num_rows=0,
        folder=folder,
        files={},
    )
    return store.publish(workspace, draft)
