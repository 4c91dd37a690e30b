"""A base model as it is on disk: its network, its tokenizer and its fingerprint."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from llama_factory.core.errors import ModelError
from llama_factory.model.adapters import Adapter
from llama_factory.model.attention import implementation
from llama_factory.model.chat.naming import give_template
from llama_factory.model.chat.prompt import PromptFormat
from llama_factory.model.precision import choose
from llama_factory.model.provenance import TOKENIZER_FILE
from llama_factory.model.settings import ModelSettings


def load_network(folder: Path, settings: ModelSettings, *, is_exact: bool = False) -> Any:
    """The base model alone, in its number format, on the CPU or the GPU that is there.

    Args:
        folder: where its files are.
        settings: number format, attention.
        is_exact: read weights in float32, to add to them before they are `rounded`.

    Raises:
        ModelError: the folder's files do not make a causal language model, or this machine cannot
            pack its weights or compute its attention as asked.
    """
    transformers_logging.disable_progress_bar()
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if is_exact else _loaded_dtype(settings),
            attn_implementation=implementation(settings.attention, choose(settings.dtype).dtype),
            trust_remote_code=settings.trust_remote_code,
            **_packed(settings.adapter),
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: this model cannot be loaded: {error}") from error
    network.eval()
    is_there = getattr(network, "is_quantized", False) or not torch.cuda.is_available()
    return network if is_there else network.to("cuda")


def _packed(adapter: Adapter) -> dict[str, Any]:
    """Options that pack the weights as they are read, straight onto the GPU."""
    adapter.require_hardware()
    config = adapter.quantization()
    return {"quantization_config": config, "device_map": {"": 0}} if config else {}


def _loaded_dtype(settings: ModelSettings) -> torch.dtype:
    """Weights that train are read in float32; what is frozen, as the settings say."""
    precision = choose(settings.dtype)
    is_frozen = settings.adapter.peft_type is not None
    return precision.dtype if is_frozen or precision.is_pure else torch.float32


def rounded(network: Any, settings: ModelSettings) -> Any:
    """A network that was read exactly, with its weights in the format of the settings.

    Buffers stay: positions are computed in float32 whatever the weights are.
    """
    dtype = _loaded_dtype(settings)
    for weight in network.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    network.config.dtype = dtype
    return network


def load_tokenizer(
    folder: Path,
    *,
    trust_remote_code: bool = False,
    template: str | None = None,
    replaces: bool = False,
    kept: PromptFormat | None = None,
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template and a padding token in any case.

    Args:
        folder: where its files are.
        trust_remote_code: run code that comes with them.
        template: a named template for tokenizers that have none.
        replaces: use the named template in any case.
        kept: how weights were taught to be asked: its template and end token count most.

    Raises:
        ModelError: there is none, or no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no tokenizer can be loaded: {error}") from error
    if kept is not None and kept.template:
        kept.give_to(tokenizer)
    else:
        give_template(tokenizer, template, where=str(folder), replaces=replaces)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_of(
    settings: ModelSettings,
    base: Path,
    adapters: Sequence[Path],
    kept: PromptFormat | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside the last adapter that has one, else the base model's.

    Args:
        settings: which template it gets.
        base: the base model's folder.
        adapters: in their order.
        kept: how the last of them was taught to be asked, which counts more than the settings.
    """
    beside = [path for path in adapters if (path / TOKENIZER_FILE).exists()]
    return load_tokenizer(
        beside[-1] if beside else base,
        trust_remote_code=settings.trust_remote_code,
        template=settings.template,
        replaces=settings.replace_template,
        kept=kept,
    )


def fingerprint(folder: Path) -> str:
    """Identifies a base model by its config and the size, start and end of each weight file."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest.update(f"{path.name} {size}".encode())
            for start in (0, max(0, size - 2**20)):
                file.seek(start)
                digest.update(file.read(2**20))
    return digest.hexdigest()
