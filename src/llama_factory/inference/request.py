"""What the engine is given and what it gives back, in token ids. No text, no model and no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GREEDY_BELOW = 1e-3
"""Temperatures below this take the likeliest token: dividing by them overflows."""

Ticket = int
"""The number of a request, unique in its engine."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 always takes the likeliest token; higher varies more.
        top_p: draw only from the likeliest tokens that make up this share of the probability.
        top_k: draw only from so many of the likeliest tokens; 0 for all.
        min_p: draw only from tokens at least this fraction as likely as the likeliest.
        repetition_penalty: logits of tokens of prompt and answer are divided by it where positive,
            multiplied where negative (Keskar et al. 2019, arXiv 1909.05858); 1 changes nothing.
        presence_penalty: subtracted from the logits of tokens that the answer holds.
        frequency_penalty: subtracted as often as the answer holds the token.
        logit_bias: added to the logits of these token ids.
        seed: of the draws; the same seed gives the same answer whatever is answered beside it.
            None draws afresh.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature < GREEDY_BELOW or self.top_p == 0 or self.top_k == 1


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Constraint:
    """What an answer must match.

    Attributes:
        kind: `json` any JSON object; `json_schema`, `regex`, `grammar` (Lark), `choice` as `text`
            says.
        text: the schema as JSON, the expression, the grammar, or a JSON list of the choices.
    """

    kind: Literal["json", "json_schema", "regex", "choice", "grammar"]
    text: str = ""


@dataclass(frozen=True)
class Request:
    """A prompt to be continued.

    Attributes:
        prompt: token ids, not empty.
        version: the name that the weights were loaded under; empty for the base model.
        max_tokens: longest answer.
        sampling: how tokens are chosen.
        end_tokens: token ids that end the answer; they count as part of it.
        min_tokens: no end token is chosen before so many tokens.
        constraint: what the answer must match.
        num_logprobs: how many of the likeliest tokens are reported beside each token; 0 reports the
            token's own log-probability alone, None nothing.
        is_urgent: read before those that wait.
        deadline: `time.monotonic()` at which the answer ends, whatever it has come to.
    """

    prompt: tuple[int, ...]
    version: str = ""
    max_tokens: int = 512
    sampling: Sampling = GREEDY
    end_tokens: frozenset[int] = frozenset()
    min_tokens: int = 0
    constraint: Constraint | None = None
    num_logprobs: int | None = None
    is_urgent: bool = False
    deadline: float | None = None


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        ticket: whose answer.
        id: the token.
        logprob: its log-probability (nats) under the model's own distribution, before temperature,
            penalties and constraints; None where it was not asked for.
        alternatives: the likeliest tokens with theirs, the likeliest first.
        num_reused: prompt tokens of the answer that were not read again.
    """

    ticket: Ticket
    id: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()
    num_reused: int = 0


Reason = Literal["stop", "length", "cancelled", "deadline", "failed"]


@dataclass(frozen=True)
class Ended:
    """The end of an answer.

    Attributes:
        ticket: whose answer.
        reason: `stop` at an end token or where the constraint allows nothing more, `length` where
            tokens or the model's context ran out.
        num_reused: prompt tokens that were not read again.
        error: why it failed.
    """

    ticket: Ticket
    reason: Reason
    num_reused: int = 0
    error: Exception | None = None


Event = Token | Ended
