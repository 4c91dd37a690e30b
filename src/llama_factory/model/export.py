"""Base model + adapters -> one plain Transformers model on disk, checked against the adapter."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.model import parity
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.base import load_network
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.modelfile import modelfile
from llama_factory.model.parity import Parity
from llama_factory.model.saved import SavedModel
from llama_factory.model.settings import EXPORT_DTYPES, ExportOptions
from llama_factory.model.wrapping import merge, wrap_saved

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in EXPORT_DTYPES}
PARITY_FILE = "parity.json"
SPARE_BYTES = 50_000_000
"""Room for the tokenizer and the small files."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where the merged model lies.
        num_parameters: of the merged model.
        num_bytes: of all files.
        num_shards: weight files.
        parity: how far it is from base model plus adapter.
    """

    folder: Path
    num_parameters: int
    num_bytes: int
    num_shards: int
    parity: Parity

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        values = vars(self) | {"folder": str(self.folder), "parity": self.parity.to_json()}
        return dict(values)


def export(
    saved: SavedModel,
    output: Path,
    prompts: Sequence[Example],
    *,
    options: ExportOptions,
    progress: Progress,
) -> Exported:
    """Merge in float32, cast, write, read back, compare; the folder appears whole or not at all.

    Args:
        saved: what is merged.
        output: a folder that is empty or does not exist.
        prompts: rows on which the written model must answer as the adapter does.
        options: how it is written.
        progress: shows every step.

    Raises:
        ConfigError: an option or the output folder is wrong.
        ModelError: the model cannot be read or merged, or the parity check fails.
        VersionError: the disk is too small.
    """
    options.check()
    _require_empty(output)
    _require_mergeable(saved)
    dtype = options.dtype or _own_dtype(saved.base)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        _require_space(saved, temporary, dtype)
        job = _Job(_in_float32(saved), temporary, replace(options, dtype=dtype), progress)
        with files.reporting_full_disk(output, what="writing the merged model"):
            num_parameters, found = job.run(prompts)
            files.publish(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sizes = {path.name: path.stat().st_size for path in output.iterdir()}
    shards = sum(name.endswith(".safetensors") for name in sizes)
    return Exported(output, num_parameters, sum(sizes.values()), shards, found)


@dataclass(frozen=True)
class _Job:
    """One export into its temporary folder."""

    saved: SavedModel
    folder: Path
    options: ExportOptions
    progress: Progress

    @property
    def dtype(self) -> str:
        """The number format that is written."""
        assert self.options.dtype is not None, "settled before a job begins"
        return self.options.dtype

    def run(self, rows: Sequence[Example]) -> tuple[int, Parity]:
        """Write and check; returns the number of parameters, and the parity."""
        tokenizer = self.saved.tokenizer()
        prompts = parity.parity_prompts(rows, tokenizer)
        kept = self.folder / ".logits"
        merged, exact = self._merge(tokenizer, prompts, kept)
        num_parameters = self._write(merged.to(DTYPES[self.dtype]), tokenizer)
        del merged
        self.progress.say(f"Reading it back and comparing {len(prompts)} prompts.")
        reloaded = load_network(self.folder, self.saved.settings)
        found = parity.compare(reloaded, prompts, kept, dtype=self.dtype)
        shutil.rmtree(kept)
        _require_parity(found, (self.saved.base, *self.saved.adapters)[-1])
        report = found.to_json() | {"before_rounding": exact and exact.to_json()}
        files.write_json(self.folder / PARITY_FILE, report)
        return num_parameters, found

    def _merge(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], kept: Path
    ) -> tuple[Any, Parity | None]:
        """The merged model in float32, and how far it is from the last adapter's.

        Each adapter is compared before the next one goes on top; the last one's logits are kept,
        or those of a model without adapters.
        """
        network, exact = self.saved.base_network(tokenizer), None
        if not self.saved.adapters:
            parity.keep_logits(network, prompts, kept)
        for folder in self.saved.adapters:
            self.progress.say(f"Merging {folder} into {self.saved.base} in float32.")
            adapted = wrap_saved(network, folder).eval()
            parity.keep_logits(adapted, prompts, kept)
            network = merge(adapted, folder)
            exact = parity.compare(network, prompts, kept, dtype="float32")
            _require_parity(exact, folder)
        return network, exact

    def _settle_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Have the template think, or not, as the model was taught, wherever it is served."""
        how = self.saved.format(PromptFormat(self.options.enable_thinking), tokenizer)
        tokenizer.chat_template = how.portable(tokenizer.chat_template)

    def _write(self, merged: Any, tokenizer: PreTrainedTokenizerBase) -> int:
        """Write the model in its final number format; returns how many parameters it has."""
        num_parameters = sum(weight.numel() for weight in merged.parameters())
        size = num_parameters * DTYPES[self.dtype].itemsize
        self.progress.say(
            f"Writing {num_parameters / 1e6:.1f} million parameters as {self.dtype}, "
            f"{size / 1e9:.2f} GB."
        )
        ends = _settle_generation(merged, tokenizer)
        merged.save_pretrained(self.folder, max_shard_size=self.options.shard_size)
        self._settle_template(tokenizer)
        tokenizer.save_pretrained(self.folder)
        spelt = [str(tokenizer.convert_ids_to_tokens(end)) for end in ends]
        files.write_text(self.folder / "Modelfile", modelfile(tokenizer, spelt))
        return num_parameters


def _settle_generation(network: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Make generation stop where the tokenizer ends answers; returns all such tokens."""
    config = network.generation_config
    declared = config.eos_token_id
    listed = declared if isinstance(declared, list) else [declared]
    ends = [end for end in dict.fromkeys([tokenizer.eos_token_id, *listed]) if end is not None]
    config.eos_token_id = ends if len(ends) > 1 else ends[0] if ends else None
    # Transformers refuses to save what some hub models carry: a temperature without sampling.
    config.do_sample = config.do_sample or _is_sampling(config)
    return ends


def _is_sampling(config: Any) -> bool:
    usual = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0, "min_p": None}
    return any(getattr(config, name, None) not in (None, value) for name, value in usual.items())


def _require_parity(found: Parity, source: Path) -> None:
    if found.holds:
        return
    bound = parity.BOUNDS[found.dtype]
    most = "must be a number" if bound.difference is None else f"at most {bound.difference:.0%}"
    raise ModelError(
        f"{source}: the merged model does not say what the adapter says, so nothing was written. "
        f"As {found.dtype}, the likeliest token is the same at {found.agreement:.2%} of "
        f"{found.num_positions} places (at least {bound.agreement:.0%}), and a logit differs by "
        f"{found.max_logit_difference:.3g}, {found.difference:.2%} of the largest ({most}). "
        f"{_remedy(found.dtype)}"
    )


def _remedy(dtype: str) -> str:
    if dtype == "float32":
        return (
            "The adapter changes weights in a way that merging cannot express, such as one of two "
            "tied layers. Serve the base model with this adapter instead."
        )
    return f"Try --dtype float32; {dtype} may be too coarse or too narrow for these weights."


def _require_empty(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not empty. Give a new folder's name.")


def _config(base: Path) -> dict[str, Any]:
    values: dict[str, Any] = files.read_json(base / "config.json")
    return values


def _require_mergeable(saved: SavedModel) -> None:
    if saved.is_untouched:
        raise ModelError(
            "this version is the untouched base model, so there is nothing to merge: use "
            f"{saved.base} as it is, or name another version with --version."
        )
    if "quantization_config" in _config(saved.base):
        raise ModelError(
            f"{saved.base} is quantised, and merging into rounded weights would lose what was "
            "learned. Name the model it was quantised from with --base."
        )


def _own_dtype(base: Path) -> str:
    """The number format of a base model's files, float32 where its config names none."""
    config = _config(base)
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return name if name in DTYPES else "float32"


def _in_float32(saved: SavedModel) -> SavedModel:
    """The same with weights read as they were saved, not packed as QLoRA trains beside them."""
    exact = saved.settings.model_copy(update={"dtype": "float32", "adapter": Lora()})
    return replace(saved, settings=exact)


def _require_space(saved: SavedModel, folder: Path, dtype: str) -> None:
    """The merged weights and the logits kept for the comparison must fit."""
    width = int(_config(saved.base).get("vocab_size") or 0)
    logits = 4 * width * parity.MAX_TOKENS * parity.MAX_PROMPTS
    weights = _num_parameters(saved.base) * DTYPES[dtype].itemsize
    files.require_space(folder, weights + logits + SPARE_BYTES, what="the merged model")


def _num_parameters(base: Path) -> int:
    """How many numbers the weight files of a model hold, by their headers."""
    total = 0
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
