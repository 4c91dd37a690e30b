"""Prompts and texts for an engine in another process: made here, as everywhere else."""

from transformers import GenerationConfig, PreTrainedTokenizerBase

from llama_factory.inference.prompts import PromptWriter
from llama_factory.inference.question import Prompt, RequestError, TokenLogprob
from llama_factory.model.base import tokenizer_of
from llama_factory.model.chat import prompt_format
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import REFUSALS
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve
from llama_factory.versions.version import ModelVersion

HALF = "\N{REPLACEMENT CHARACTER}"
"""What half a character is decoded to."""


class Rendering:
    """The tokenizer of a base model and how each version is asked. For one thread."""

    def __init__(self, settings: ModelSettings, usual: PromptFormat) -> None:
        """Read the tokenizer.

        Args:
            settings: name the base model.
            usual: how the base version is asked.

        Raises:
            ModelError: the model cannot be found or read.
        """
        self.base_folder = resolve(settings.base_model)
        self._base_model = settings.base_model
        self._tokenizer = tokenizer_of(settings, self.base_folder, ())
        self._usual = PromptWriter(self._tokenizer, usual)
        self._writers: dict[str, PromptWriter] = {}
        self._ends = _declared_ends(self.base_folder, self._tokenizer)

    def add(self, version: ModelVersion) -> None:
        """Look up how a version was taught to be asked."""
        if version.adapter is not None:
            how = prompt_format.read(version.adapter, self._usual.format, self._tokenizer)
            self._writers[version.id] = PromptWriter(self._tokenizer, how)

    def remove(self, version_id: str) -> None:
        """Forget a version."""
        self._writers.pop(version_id, None)

    def ids(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        """The token ids that a version is asked with.

        Raises:
            RequestError: the turns do not fit the chat template.
        """
        try:
            ids = tuple(self._writers.get(version_id, self._usual).ids(prompt))
        except REFUSALS as error:
            raise RequestError(
                f"messages do not fit the chat template of {self._base_model}: {error}. "
                "Most templates want user and assistant to take turns after one system message.",
                param="messages",
            ) from error
        if not ids:
            raise RequestError("prompt: has no tokens. Send a text.", param="prompt")
        return ids

    def encode(self, text: str) -> list[int]:
        """The token ids of a plain text."""
        return list(self._tokenizer(text)["input_ids"])

    def text(self, ids: tuple[int, ...]) -> str:
        """The text of token ids, special tokens included."""
        return str(self._tokenizer.decode(list(ids)))

    def ends(self, version_id: str) -> frozenset[int]:
        """The tokens that end a version's answers."""
        how = self._writers.get(version_id, self._usual).format
        end = how.end_id(self._tokenizer)
        return self._ends if end is None else self._ends | {end}

    def logprob(self, token: int, value: float) -> TokenLogprob:
        """One token with its log-probability, as text."""
        text = str(self._tokenizer.decode([token]))
        return TokenLogprob(text, value, None if HALF in text else tuple(text.encode()))


def _declared_ends(folder: object, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokenizer's end token, and all that the model declares."""
    try:
        declared = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        declared = None  # a model without a file of generation settings
    listed = declared if isinstance(declared, list) else [declared]
    return frozenset(int(each) for each in [tokenizer.eos_token_id, *listed] if each is not None)
