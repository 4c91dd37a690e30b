"""Runs the base model and its versions' adapters with Transformers, in this process."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from llama_factory.core.errors import VersionError
from llama_factory.core.types import BASE_VERSION
from llama_factory.inference import likeliest
from llama_factory.inference.prompts import Prompts
from llama_factory.inference.question import (
    Answer,
    Options,
    PromptTooLongError,
    Question,
    RequestError,
)
from llama_factory.inference.streamed_text import TextPieces
from llama_factory.model import provenance
from llama_factory.model.base import fingerprint, load_network, tokenizer_of
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.chat.template import REFUSALS
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve
from llama_factory.model.wrapping import unread
from llama_factory.versions.version import ModelVersion

PROOF = "What is new?"
"""A question that every version computes once before it may answer."""

GREEDY_BELOW = 1e-3
"""Temperatures below this always draw the likeliest token, and dividing by them overflows."""

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError)
"""What PEFT raises for an adapter that is damaged or made for another model."""


class TransformersEngine:
    """One base model in memory, with an adapter a version beside it. See `Engine`."""

    def __init__(self, settings: ModelSettings, usual: PromptFormat = USUAL) -> None:
        """Load the base model.

        Args:
            settings: which one.
            usual: how the base version is asked, and versions that nothing was written down for.

        Raises:
            ModelError: it cannot be found or read.
        """
        transformers_logging.set_verbosity_error()
        folder = resolve(settings.base_model)
        self._base_model = settings.base_model
        self._fingerprint = fingerprint(folder)
        self._tokenizer = tokenizer_of(settings, folder, ())
        self._prompts = Prompts(self._tokenizer, usual)
        # The fresh adapter never answers. It makes room for those of the versions, and with it
        # there is always an adapter to switch off for the base version.
        network = load_network(folder, settings)
        self._network = settings.adapter.apply(network, freeze_layers=0, seed=0).eval()
        self._context = _context_tokens(self._network, self._tokenizer)
        self._end_tokens = _end_tokens(self._network, self._tokenizer)
        self._prefix = self._network.active_peft_config.is_prompt_learning
        self._adapters: dict[str, list[str]] = {}
        # Of these, the versions that have proven that they answer: other threads look at them, so
        # that the set is replaced and never changed.
        self._proven = frozenset({BASE_VERSION})
        self._answering = ""

    @property
    def loaded(self) -> frozenset[str]:
        """See `Engine`."""
        return self._proven

    def load(self, version: ModelVersion) -> None:
        """See `Engine`.

        Raises:
            VersionError: the version belongs to another base model, or cannot be read.
        """
        if version.id in self.loaded:
            return
        self._require_same_base(version)
        if version.adapter is None:
            raise VersionError(f"{version.folder}: there is no adapter folder to serve.")
        parts = _parts(version.id, version.adapter)
        # Fresh weights are drawn before the saved ones replace them, maybe between two tokens of
        # an answer whose own draws must stay as they are.
        with _seeded(0, self._network.device), self._unchanged():
            try:
                self._attach(version, parts)
            except BaseException:
                self._detach(version.id, parts)
                raise
        self._proven |= {version.id}

    def unload(self, version_id: str) -> None:
        """See `Engine`."""
        self._proven = self._proven - {version_id} | {BASE_VERSION}
        with self._unchanged():
            self._detach(version_id, self._adapters.get(version_id, [version_id]))

    def generate(
        self,
        version_id: str,
        question: Question,
        options: Options,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> Answer:
        """See `Engine`; an answer never grows beyond what the model can read."""
        prompt = self.prompt(version_id, question)
        max_tokens = min(options.max_tokens, self._context - len(prompt))
        pieces = TextPieces(self._decode, options.stop, on_text)
        listener = _Listener(pieces, self._ends(version_id), should_stop)
        with self._only(version_id), _seeded(options.seed, self._network.device):
            self._run(prompt, max_tokens, options, listener)
        pieces.finish()
        is_cut = listener.num_tokens == max_tokens and not listener.is_finished
        return Answer(pieces.text, len(prompt), listener.num_tokens, "length" if is_cut else "stop")

    def _run(
        self, prompt: list[int], max_tokens: int, options: Options, listener: "_Listener"
    ) -> None:
        ids = torch.tensor([prompt], device=self._network.device)  # [1, seq]
        with likeliest.in_float32(self._network):
            self._network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                num_beams=1,
                eos_token_id=sorted(listener.end_tokens),
                pad_token_id=self._tokenizer.pad_token_id,
                stopping_criteria=StoppingCriteriaList([listener]),
                **_sampling(options),
            )

    def _ends(self, version_id: str) -> frozenset[int]:
        end = self._prompts.end(version_id)
        return self._end_tokens if end is None else self._end_tokens | {end}

    def prompt(self, version_id: str, question: Question) -> list[int]:
        """The tokens that ask a version a question.

        Raises:
            RequestError: the conversation is too long or does not fit the chat template.
        """
        try:
            prompt = self._prompts.ids(version_id, question)
        except REFUSALS as error:
            raise RequestError(
                f"messages do not fit the chat template of {self._base_model}: {error}. "
                "Most templates want user and assistant to take turns after one system message."
            ) from error
        if len(prompt) >= self._context:
            raise PromptTooLongError(
                f"messages have {len(prompt)} tokens and {self._base_model} reads "
                f"{self._context - 1} before an answer. Shorten them, or leave out old turns."
            )
        return prompt

    def _decode(self, ids: Sequence[int]) -> str:
        # Cleaning up spaces would change text that was already handed on.
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    @contextmanager
    def _only(self, version_id: str) -> Iterator[None]:
        """Answer with this version's adapter alone, and with those consolidated under it."""
        assert version_id in {*self._adapters, BASE_VERSION}, f"{version_id} was not loaded"
        before, self._answering = self._answering, version_id
        is_plain = self._prefix and version_id == BASE_VERSION
        try:
            with self._network.disable_adapter() if is_plain else nullcontext():
                self._switch()
                yield
        finally:
            self._answering = before

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Let adapters come and go while an answer is in progress, which goes on as it began."""
        try:
            yield
        finally:
            self._switch()

    def _switch(self) -> None:
        """Let the version that is answering compute, and no other."""
        if not self._answering:
            return
        layers = self._network.base_model
        if self._answering == BASE_VERSION:
            if not self._prefix:
                layers.disable_adapter_layers()
            return
        if not self._prefix:
            layers.enable_adapter_layers()
        names = self._adapters[self._answering]
        self._network.set_adapter(self._answering, inference_mode=True)
        if len(names) > 1:  # their products add up
            layers.set_adapter(names, inference_mode=True)

    def _require_same_base(self, version: ModelVersion) -> None:
        if version.base_fingerprint not in ("", self._fingerprint):
            raise VersionError(
                f"{version.folder} was trained on another base model ({version.base_model}) than "
                f"the one being served ({self._base_model}), so its adapter does not fit. Set "
                "model.base_model to the model it was trained on."
            )

    def _attach(self, version: ModelVersion, parts: Mapping[str, Path]) -> None:
        try:
            for name, folder in parts.items():
                self._read_adapter(name, str(folder))
            self._prompts.add(version)
            self._adapters[version.id] = list(parts)
            self._prove(version.id)
        except UNREADABLE as error:
            raise VersionError(
                f"{version.adapter}: this adapter cannot be loaded: {error}. Restore it from a "
                "backup, or roll back to another version."
            ) from error

    def _read_adapter(self, name: str, folder: str) -> None:
        device = str(self._network.device)
        self._network.load_adapter(folder, name, torch_device=device)
        if wrong := unread(self._network, Path(folder), name):
            raise ValueError(f"{wrong[0]} is missing or belongs to another model")

    @torch.no_grad()
    def _prove(self, version_id: str) -> None:
        """Compute a token with a version before anybody is answered by it.

        Raises:
            ValueError: what it computes is no number.
        """
        ids = torch.tensor([self._tokenizer(PROOF)["input_ids"]], device=self._network.device)
        with self._only(version_id):
            # Not by calling the network: while the base model answers, vectors before the rows
            # are switched off by a forward of the network's own.
            forward = type(self._network).forward
            logits = forward(
                self._network, input_ids=ids, attention_mask=torch.ones_like(ids)
            ).logits  # [1, seq, vocab]
        if not torch.isfinite(logits).all():
            raise ValueError("it computes values that are no numbers (NaN or infinite)")

    def _detach(self, version_id: str, names: Iterable[str]) -> None:
        self._prompts.remove(version_id)
        self._adapters.pop(version_id, None)
        for name in names:
            self._drop_adapter(name)

    def _drop_adapter(self, name: str) -> None:
        if name in self._network.peft_config:
            kept = next(each for each in self._network.peft_config if each != name)
            self._network.set_adapter(kept, inference_mode=True)
            self._network.delete_adapter(name)


def _parts(version_id: str, adapter: Path) -> dict[str, Path]:
    """The adapters that answer together, by name: the version's own, and those under it."""
    under = provenance.read(adapter).merged
    return {f"{version_id}-{n}": each for n, each in enumerate(under, 1)} | {version_id: adapter}


class _Listener(StoppingCriteria):
    """Called by `generate` after each token: hands the text on and says when to end.

    A streamer would be told of a token only after this, too late to stop at that token.
    """

    def __init__(
        self, pieces: TextPieces, end_tokens: frozenset[int], should_stop: Callable[[], bool]
    ) -> None:
        self.num_tokens = 0
        self.is_finished = False
        self._pieces = pieces
        self.end_tokens = end_tokens
        self._should_stop = should_stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        token = int(input_ids[0, -1])
        self.num_tokens += 1
        if token not in self.end_tokens:
            self._pieces.push(token)
        self.is_finished = token in self.end_tokens or self._pieces.is_stopped
        ends = self.is_finished or self._should_stop()
        return torch.full((1,), ends, device=input_ids.device, dtype=torch.bool)


def _sampling(options: Options) -> dict[str, Any]:
    """What `generate` is told; the model's own sampling habits give way to the request's."""
    if options.temperature < GREEDY_BELOW or options.top_p == 0:
        return {"do_sample": False}
    drawn = {"temperature": options.temperature, "top_p": options.top_p}
    return {"do_sample": True, "top_k": 0, **drawn}


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from a seed for a while, leaving the process's own random numbers alone."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(secrets.randbits(63) if seed is None else seed % 2**63)
        yield


def _context_tokens(network: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the model can read; models without a position table name no limit."""
    limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    taken = getattr(network.active_peft_config, "num_virtual_tokens", None) or 0
    return int(limit or tokenizer.model_max_length) - taken


def _end_tokens(network: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, and all that the model declares."""
    declared = network.generation_config.eos_token_id
    listed = declared if isinstance(declared, list) else [declared]
    return frozenset(int(end) for end in [tokenizer.eos_token_id, *listed] if end is not None)
