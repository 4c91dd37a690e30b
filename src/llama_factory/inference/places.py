"""Where versions are answered: beside one base model, or by networks of their own.

LoRA shares the base model. Other adapters, and weights that were trained whole, take a network of
their own, merged where that is possible.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ModelError, VersionError
from llama_factory.core.types import BASE_VERSION
from llama_factory.inference.delivery import TokenTexts
from llama_factory.inference.one_by_one import OneByOneNetwork
from llama_factory.inference.packed import PackedNetwork, SequenceReader, Span, can_pack
from llama_factory.inference.prompts import PromptWriter
from llama_factory.inference.settings import InferenceSettings
from llama_factory.inference.version_weights import Chain, Merged, VersionedNetwork
from llama_factory.model import provenance, value_head
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.base import fingerprint, load_network, tokenizer_of
from llama_factory.model.chat import prompt_format
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.lora_weights import read_plain_lora
from llama_factory.model.saved import of_version
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve
from llama_factory.model.value_head import ValueHead
from llama_factory.versions.version import ModelVersion

PROOF = "What is new?"
"""A question that every version computes once before it may answer."""

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, ModelError)
"""What reading raises for an adapter that is damaged or made for another model."""


@dataclass(frozen=True)
class Place:
    """What answers for one version.

    Attributes:
        reader: reads its tokens; versions may share one.
        prompts: how it is asked.
        texts: what its tokens say.
        end_tokens: which end its answers.
        chain: matrices that the reader is to take before the version answers.
        merged: what the reader made of them.
        head: makes scores of its states; None where it is no reward model.
    """

    reader: SequenceReader
    prompts: PromptWriter
    texts: TokenTexts
    end_tokens: frozenset[int]
    chain: Chain | None = None
    merged: Merged | None = None
    head: ValueHead | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Makes its tokens."""
        return self.prompts.tokenizer


class Places:
    """The base model in memory, and the place of every version that was loaded."""

    def __init__(
        self, settings: ModelSettings, usual: PromptFormat, inference: InferenceSettings
    ) -> None:
        """Load the base model.

        Raises:
            ModelError: it cannot be found or read.
        """
        # Read as it was saved, never packed as QLoRA trains beside it.
        self._settings = settings.model_copy(update={"adapter": Lora()})
        self._inference = inference
        self._usual = usual
        folder = resolve(settings.base_model)
        self._fingerprint = fingerprint(folder)
        self.network = load_network(folder, self._settings)
        self.vocab_size = int(self.network.get_output_embeddings().weight.shape[0])
        tokenizer = tokenizer_of(settings, folder, ())
        self._ends = end_tokens(self.network, tokenizer)
        reader = self._shared(self.network)
        base = self._place(reader, tokenizer, usual, self._ends)
        self._base = replace(base, head=self._head(folder))
        self._by_id = {BASE_VERSION: self._base}

    def __getitem__(self, version_id: str) -> Place:
        """The place of a version that was loaded."""
        return self._by_id[version_id]

    @property
    def ids(self) -> frozenset[str]:
        """Of the versions that were loaded; the base version always is."""
        return frozenset(self._by_id)

    def read(self, version: ModelVersion) -> Place:
        """Read a version's files. It answers once it was added.

        Raises:
            VersionError: it belongs to another base model, or cannot be read.
        """
        self._require_same_base(version)
        if version.adapter is None:
            raise VersionError(f"{version.folder}: there is no adapter folder to serve.")
        try:
            return self._read(version, version.adapter)
        except UNREADABLE as error:
            raise _unusable(version, error) from error

    def add(self, version: ModelVersion, place: Place) -> None:
        """Let a version answer from now on, once it has computed a token.

        Raises:
            VersionError: what it computes is no number.
        """
        try:
            if place.chain is not None and isinstance(place.reader, VersionedNetwork):
                place.reader.add(version.id, place.chain, place.merged)
            prove(place, version.id)
        except UNREADABLE as error:
            self._drop(version.id)
            raise _unusable(version, error) from error
        self._by_id[version.id] = replace(place, chain=None, merged=None)

    def remove(self, version_id: str) -> None:
        """Free what a version holds."""
        if self._by_id.pop(version_id, None):
            self._drop(version_id)

    def _drop(self, version_id: str) -> None:
        if isinstance(self._base.reader, VersionedNetwork):
            self._base.reader.remove(version_id)

    def _read(self, version: ModelVersion, adapter: Path) -> Place:
        reader = self._base.reader
        if isinstance(reader, VersionedNetwork) and (chain := _chain(adapter)) is not None:
            tokenizer = self._base.tokenizer
            how = prompt_format.read(adapter, self._usual, tokenizer)
            place = self._place(reader, tokenizer, how, self._ends)
            merged = reader.merge(chain)
            return replace(place, chain=chain, merged=merged, head=self._head(adapter))
        saved = of_version(self._settings, (adapter,), version.base_fingerprint)
        tokenizer = saved.tokenizer()
        network = saved.network(tokenizer).eval()
        how = saved.format(self._usual, tokenizer)
        place = self._place(reader_of(network), tokenizer, how, end_tokens(network, tokenizer))
        return replace(place, head=self._head(adapter))

    def _head(self, folder: Path) -> ValueHead | None:
        head = value_head.read(folder, self.network.config.get_text_config().hidden_size)
        return None if head is None else head.to(self.network.device)

    def _shared(self, network: Any) -> SequenceReader:
        if not can_pack(network):
            return OneByOneNetwork(network)
        if getattr(network, "is_quantized", False):
            return PackedNetwork(network)  # its layers alone know how their weights are packed
        return VersionedNetwork(network, self._inference.weights, self._inference.merged_versions)

    def _place(
        self,
        reader: SequenceReader,
        tokenizer: PreTrainedTokenizerBase,
        how: PromptFormat,
        ends: frozenset[int],
    ) -> Place:
        own = how.end_id(tokenizer)
        ends = ends if own is None else ends | {own}
        return Place(reader, PromptWriter(tokenizer, how), TokenTexts(tokenizer), ends)

    def _require_same_base(self, version: ModelVersion) -> None:
        if version.base_fingerprint not in ("", self._fingerprint):
            raise VersionError(
                f"{version.folder} was trained on another base model ({version.base_model}) than "
                f"the one being served ({self._settings.base_model}), so its adapter does not fit. "
                "Set model.base_model to the model it was trained on."
            )


def reader_of(network: Any) -> SequenceReader:
    """What reads tokens with a network in eval mode."""
    return PackedNetwork(network) if can_pack(network) else OneByOneNetwork(network)


def end_tokens(network: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, and all that the model declares."""
    declared = network.generation_config.eos_token_id
    listed = declared if isinstance(declared, list) else [declared]
    return frozenset(int(end) for end in [tokenizer.eos_token_id, *listed] if end is not None)


def _unusable(version: ModelVersion, error: Exception) -> VersionError:
    return VersionError(
        f"{version.adapter}: this adapter cannot be loaded: {error}. Restore it from a backup, or "
        "roll back to another version."
    )


def _chain(adapter: Path) -> Chain | None:
    """The matrices of an adapter and of those under it; None where one is no plain LoRA."""
    if not (adapter / provenance.ADAPTER_FILE).is_file():
        return None
    folders = [*provenance.read(adapter).merged, adapter]
    matrices = [read_plain_lora(folder) for folder in folders]
    chain = [each for each in matrices if each is not None]
    return chain if len(chain) == len(matrices) else None


def prove(place: Place, version_id: str) -> None:
    """Compute a token with a version before anybody is answered by it.

    Raises:
        ValueError: what it computes is no number.
    """
    sequence = place.reader.begin(version_id)
    ids = place.tokenizer(PROOF)["input_ids"]
    try:
        logits = place.reader.read([Span(sequence, ids, len(ids))])
    finally:
        place.reader.end(sequence)
    if not torch.isfinite(logits).all():
        raise ValueError("it computes values that are no numbers (NaN or infinite)")
