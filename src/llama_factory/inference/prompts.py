"""How a version is asked: as it was taught and tested, whatever the settings say today."""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from llama_factory.inference.question import Prompt, Question
from llama_factory.model.chat import prompt_format
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import Renderer, prompt_tokens
from llama_factory.versions.version import ModelVersion


@dataclass(frozen=True)
class PromptWriter:
    """Writes the prompts of one version.

    Attributes:
        tokenizer: of its model.
        format: how it was taught to be asked.
    """

    tokenizer: PreTrainedTokenizerBase
    format: PromptFormat

    def ids(self, prompt: Prompt) -> list[int]:
        """The tokens that ask a question, or those of a text as it is.

        Raises:
            TemplateError: the chat template refuses the turns.
        """
        if isinstance(prompt, Question):
            return self._of_turns(prompt)
        if isinstance(prompt.text, tuple):
            return list(prompt.text)
        return list(self.tokenizer(prompt.text)["input_ids"])

    def _of_turns(self, question: Question) -> list[int]:
        how = self.format
        if question.enable_thinking is not None:
            how = replace(how, enable_thinking=question.enable_thinking)
        renderer = Renderer(self.tokenizer, question.tools, how)
        return list(prompt_tokens(question.messages, renderer).ids)


class Prompts:
    """The prompts of versions that answer.

    Args:
        tokenizer: of the base model.
        usual: how the base version is asked, and versions that nothing was written down for.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, usual: PromptFormat) -> None:
        self._tokenizer = tokenizer
        self._usual = usual
        self._formats: dict[str, PromptFormat] = {}

    def add(self, version: ModelVersion) -> None:
        """Look up how a version was taught.

        Raises:
            ModelError: the file that says so is damaged.
        """
        if version.adapter is not None:
            found = prompt_format.read(version.adapter, self._usual, self._tokenizer)
            self._formats[version.id] = found

    def remove(self, version_id: str) -> None:
        """Forget a version."""
        self._formats.pop(version_id, None)

    def ids(self, version_id: str, question: Question) -> list[int]:
        """The tokens that ask a version a question.

        Raises:
            TemplateError: the chat template refuses the turns.
        """
        how = self._formats.get(version_id, self._usual)
        if question.enable_thinking is not None:
            how = replace(how, enable_thinking=question.enable_thinking)
        return list(
            prompt_tokens(question.messages, Renderer(self._tokenizer, question.tools, how)).ids
        )

    def end(self, version_id: str) -> int | None:
        """The token that ends a version's answers."""
        return self._formats.get(version_id, self._usual).end_id(self._tokenizer)
