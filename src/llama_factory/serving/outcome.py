"""Who asked, and what became of an answer: what canaries, metrics and feedback are given."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from llama_factory.inference.question import Options, Prompt
from llama_factory.knowledge.grounding import Grounding

FinishReason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        key_id: of the key that the request came with; empty where the server asks for none.
        user: what the request names its user; empty where it names none.
        conversation: the same for all requests of one conversation.
        begins: whether the request holds no earlier answer: a conversation begins.
    """

    key_id: str = ""
    user: str = ""
    conversation: str = ""
    begins: bool = True


@dataclass(frozen=True)
class Asked:
    """A request for one or more answers, of one version.

    Attributes:
        id: of the completion, as the client sees it.
        name: the alias or version that is asked for.
        caller: who asks.
        choices: what is asked and how, one for each answer.
        grounding: the documents that the prompts were filled from; None where none were.
    """

    id: str
    name: str
    caller: Caller
    choices: tuple[tuple[Prompt, Options], ...]
    grounding: Grounding | None = None


@dataclass(frozen=True)
class Outcome:
    """One answer, whole or not.

    Attributes:
        asked: the request that it belongs to.
        index: which of the request's answers it is.
        version_id: the version that answered; empty where none had begun.
        text: the answer, as far as it came.
        prompt_tokens: tokens of the prompt; 0 where the answer did not end by itself.
        completion_tokens: tokens generated; 0 where the answer did not end by itself.
        reused_tokens: prompt tokens that were not read again.
        began: when the request came, in seconds since 1970.
        seconds_waited: from the request to the beginning of the answer.
        seconds_to_first: from the request to the first text; None where none came.
        seconds: from the request to the end.
        finish_reason: `cancelled` where the client left, `failed` where the server is at fault or
            the request cannot be answered.
        error: code or class of what failed; empty where nothing did.
        is_servers_fault: whether what failed is the server's or the version's fault.
    """

    asked: Asked
    index: int
    version_id: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int
    began: float
    seconds_waited: float
    seconds_to_first: float | None
    seconds: float
    finish_reason: FinishReason
    error: str = ""
    is_servers_fault: bool = False

    @property
    def begins_prompt(self) -> bool:
        """Whether it is the first of the answers to its prompt, whose tokens count once."""
        prompts = [prompt for prompt, _ in self.asked.choices]
        return not self.index or prompts[self.index] is not prompts[self.index - 1]


@runtime_checkable
class FeedbackObserver(Protocol):
    """An observer that is also told what callers think of answers."""

    def feedback(self, completion_id: str, rating: Literal["up", "down"], version_id: str) -> None:
        """A rating is stored; it takes the place of an earlier one of the same caller."""


class Observer(Protocol):
    """Is given every answer. Its methods run on the event loop and return at once."""

    def begun(self, asked: Asked, version_id: str) -> None:
        """A request's turn has come; this version answers it."""

    def finished(self, outcome: Outcome) -> None:
        """An answer ended, whatever it came to."""
