"""How a version is asked: as it was taught and tested, whatever the settings say today."""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from llama_factory.inference.question import Prompt, Question
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import Renderer, prompt_tokens


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
