"""How a version is asked: as it was taught and tested, whatever the settings say today."""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from llama_factory.inference.question import Prompt, Question
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import Renderer, prompt_tokens

LONG_TOKEN = 8
"""Characters of a token that is longer than tokens of real texts are in the mean."""
SLACK = 16
"""Tokens by which the beginning of a text may have more than the whole text has there."""


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

    def least_tokens(self, prompt: Prompt, context: int) -> int | None:
        """How many tokens the beginning of a very long prompt has, where `context` is fewer.

        A text that is a hundred times too long is refused without reading all of it. None where
        only all of its tokens tell.

        Args:
            prompt: what is asked.
            context: how many tokens the model reads.
        """
        text = _beginning(prompt, LONG_TOKEN * context)
        if len(text) < LONG_TOKEN * context:
            return None
        least = len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) - SLACK
        return least if least >= context else None

    def _of_turns(self, question: Question) -> list[int]:
        how = self.format
        if question.enable_thinking is not None:
            how = replace(how, enable_thinking=question.enable_thinking)
        renderer = Renderer(self.tokenizer, question.tools, how)
        return list(prompt_tokens(question.messages, renderer).ids)


def _beginning(prompt: Prompt, length: int) -> str:
    """The first characters of all that is asked; nothing of token ids."""
    if isinstance(prompt, Question):
        texts = [turn.content for turn in prompt.messages]
    else:
        texts = [prompt.text] if isinstance(prompt.text, str) else []
    return "".join(texts)[:length]
