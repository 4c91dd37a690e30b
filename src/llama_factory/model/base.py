"""A base model as it is on disk: its network, its tokenizer and its fingerprint."""

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Message
from llama_factory.model.acceleration import attention_implementation
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import REFUSALS, Renderer
from llama_factory.model.chat.templates import NamedTemplate, find, names
from llama_factory.model.chat.tokens import first_difference
from llama_factory.model.dtypes import choose
from llama_factory.model.longer_positions import config_for
from llama_factory.model.packing_libraries import keep_differentiable, require_reader
from llama_factory.model.provenance import TOKENIZER_FILE
from llama_factory.model.settings import ModelSettings

logger = logging.getLogger(__name__)

PROBE = (
    Message("user", "Hello?"),
    Message("assistant", "你好。"),
    Message("user", "And now?"),
    Message("assistant", "Good."),
)
"""A conversation on which two templates are compared."""

SHOWN = 20
"""Characters shown on either side of a difference."""


def load_network(
    folder: Path, settings: ModelSettings, *, is_exact: bool = False, in_place: bool = False
) -> Any:
    """The base model alone, in its number format, on the CPU or the GPU that is there.

    Args:
        folder: where its files are.
        settings: number format, attention.
        is_exact: read weights in float32, to add to them before they are `rounded`.
        in_place: leave weights in their files, which processes of a machine read as one; where the
            number format is another one than that of the files they are copied to main memory.

    Raises:
        ModelError: the folder's files do not make a causal language model, or this machine cannot
            pack its weights or compute its attention as asked.
    """
    transformers_logging.disable_progress_bar()
    require_reader(folder)
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if is_exact else loaded_dtype(settings),
            attn_implementation=attention_implementation(
                settings.attention, choose(settings.dtype).dtype
            ),
            trust_remote_code=settings.trust_remote_code,
            **_packed(settings),
            **config_for(folder, settings),
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{folder}: this model cannot be loaded: {error}") from error
    network.eval()
    is_packed = getattr(network, "is_quantized", False)
    if is_packed:
        keep_differentiable(network)
    return network if is_packed or in_place or not torch.cuda.is_available() else network.to("cuda")


def _packed(settings: ModelSettings) -> dict[str, Any]:
    """Options that pack the weights as they are read, straight to where they compute."""
    settings.adapter.require_hardware()
    config = settings.adapter.quantization(choose(settings.dtype).dtype)
    place: int | str = 0 if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": place}} if config else {}


def loaded_dtype(settings: ModelSettings) -> torch.dtype:
    """Weights that train are read in float32; frozen ones in the format of the settings."""
    precision = choose(settings.dtype)
    is_frozen = settings.adapter.peft_type is not None
    return precision.dtype if is_frozen or precision.is_pure else torch.float32


def rounded(network: Any, settings: ModelSettings) -> Any:
    """A network that was read exactly, with its weights in the format of the settings.

    Buffers stay: positions are computed in float32 whatever the weights are.
    """
    dtype = loaded_dtype(settings)
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


def give_template(
    tokenizer: PreTrainedTokenizerBase, name: str | None, *, where: str, replaces: bool = False
) -> None:
    """Make sure that a tokenizer has a chat template; its own one wins unless it is replaced.

    Args:
        tokenizer: gets the named template where it has none.
        name: the named template, if any.
        where: what the tokenizer belongs to, for messages.
        replaces: whether the named template is used in any case.

    Raises:
        ModelError: there is neither a template nor a name, or the name is unknown.
    """
    named = None if name is None else find(name)
    if named is None and tokenizer.chat_template is None:
        raise ModelError(
            f"{where}: the tokenizer has no chat template, so messages cannot become tokens. Use "
            "the instruction-tuned variant of this model, or set model.template to the format "
            f"that it was trained with, one of: {', '.join(names())}."
        )
    if named is None:
        return
    if replaces or tokenizer.chat_template is None:
        _use_template(tokenizer, named, where)
    else:
        _warn_if_other(tokenizer, named, where)


def _use_template(tokenizer: PreTrainedTokenizerBase, named: NamedTemplate, where: str) -> None:
    tokenizer.chat_template = named.jinja
    pieces = [_spelling(tokenizer, token) for token in named.tokens]
    missing = [piece for piece in pieces if not _is_single(tokenizer, piece)]
    if missing:
        logger.warning(
            "%s: %s of template '%s' %s no single token of this vocabulary and will be spelt out. "
            "A model that was not trained with them learns this format slowly; the templates "
            "'default', 'vicuna' and 'alpaca' need none.",
            where,
            ", ".join(missing),
            named.name,
            "is" if len(missing) == 1 else "are",
        )
    end = pieces[-1]
    if end not in missing and end != tokenizer.eos_token:
        # Generation stops at the tokenizer's end token, so it must be the one that is taught.
        logger.warning("%s: answers now end with %s, not %s.", where, end, tokenizer.eos_token)
        tokenizer.eos_token = end


def _spelling(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """`eos_token` and the like as the tokenizer spells them; empty where it has none."""
    return str(getattr(tokenizer, token) or "") if token.endswith("os_token") else token


def _is_single(tokenizer: PreTrainedTokenizerBase, piece: str) -> bool:
    return piece in tokenizer.get_vocab()


def _warn_if_other(tokenizer: PreTrainedTokenizerBase, named: NamedTemplate, where: str) -> None:
    """Warn where the tokenizer's own template and the named one differ."""
    own = Renderer(tokenizer)
    kept = tokenizer.chat_template
    try:
        ours = own.text(PROBE, ask=False)
        tokenizer.chat_template = named.jinja
        theirs = own.text(PROBE, ask=False)
    except REFUSALS as error:
        logger.warning("%s: template '%s' cannot be compared: %s", where, named.name, error)
        return
    finally:
        tokenizer.chat_template = kept
    if ours != theirs:
        _warn_once(_difference(tokenizer, named.name, where, ours, theirs))


def _difference(
    tokenizer: PreTrainedTokenizerBase, name: str, where: str, ours: str, theirs: str
) -> str:
    """Where two templates part, in tokens."""
    texts = [tokenizer.tokenize(text, add_special_tokens=False) for text in (ours, theirs)]
    first = first_difference(*texts)
    place = first_difference(ours, theirs)
    around = slice(max(0, place - SHOWN), place + SHOWN)
    return (
        f"{where}: model.template '{name}' differs from the tokenizer's own chat template, which "
        f"is used (model.replace_template: true would use the named one): first at token {first}, "
        f"{ours[around]!r} in its own and {theirs[around]!r} in '{name}'."
    )


@lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    """Warn, but of the same thing once."""
    logger.warning("%s", message)


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
