"""Chooses the next token of each answer from the model's logits; knows no model and no text.

The order is logit bias, penalties, end tokens before `min_tokens`, constraint, temperature, top-k,
top-p, min-p, as Transformers' processors run.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from llama_factory.core.errors import ServingError
from llama_factory.inference.constraints import ConstraintError, Matcher
from llama_factory.inference.drawing import HIGHEST_TEMPERATURE, Shape, draw
from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Request, Sampling

LARGEST = 1e30
"""What biases and penalties bring a score to at most: float32 stays finite."""
NO_TOKEN = -1
"""The id of a choice that failed."""


@dataclass(frozen=True)
class Chosen:
    """The next token of an answer.

    Attributes:
        id: the token; -1 where `error` says why none could be chosen.
        logprob: in nats under the model's own distribution, before everything that changes it;
            None where it was not asked for.
        alternatives: the likeliest tokens with theirs, the likeliest first.
        is_end: whether the answer ends with it: an end token, or all that the constraint allows.
        error: why the row has no token; its answer has failed, those beside it have not.
    """

    id: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()
    is_end: bool = False
    error: Exception | None = None


Report = tuple[float | None, tuple[tuple[int, float], ...]]
"""The log-probability of a token and those of the likeliest in its place."""
NOTHING: Report = (None, ())


class ChoiceError(ServingError):
    """No token can be chosen for one answer."""


class Chooser:
    """How the tokens of one answer are chosen, and what that depends on so far."""

    def __init__(self, request: Request, vocab_size: int, matcher: Matcher | None = None) -> None:
        """Begin an answer.

        Args:
            request: whose answer.
            vocab_size: columns of the logits.
            matcher: the request's constraint, compiled, at its beginning.

        Raises:
            RequestError: the logit bias names a token that the model does not have.
        """
        self.sampling = request.sampling
        self.num_logprobs = request.num_logprobs
        self.end_tokens = frozenset(i for i in request.end_tokens if i < vocab_size)
        self.matcher = matcher
        self.num_tokens = 0
        self._min_tokens = request.min_tokens
        # As text, since a seed that is a number would lose its sign.
        seed = request.sampling.seed
        self._random = random.Random(None if seed is None else str(seed))
        self._bias = _bias(request, vocab_size)
        self._seen = _Seen(request) if _has_penalty(request) else None

    @property
    def must_go_on(self) -> bool:
        """Whether it is too early for an end token."""
        return self.num_tokens < self._min_tokens

    @property
    def is_plain(self) -> bool:
        """Whether the next token is the likeliest one as the model sees it."""
        is_changed = self._bias or self._seen or self.matcher or self.must_go_on
        return self.sampling.is_greedy and not is_changed

    def change(self, scores: Tensor) -> None:
        """Apply all that comes before the temperature.

        Args:
            scores: [vocab] float32 logits; changed in place.

        Raises:
            ConstraintError: the constraint costs too much.
        """
        if self._bias is not None:
            ids, values = (torch.tensor(each, device=scores.device) for each in self._bias)
            scores[ids] = _bounded(scores[ids].double() + values)
        if self._seen is not None:
            ids, counts = self._seen.tensors(scores.device)
            scores[ids] = _bounded(_penalised(scores[ids].double(), counts, self.sampling))
        if self.matcher is not None:
            allowed = self._allowed(self.matcher)
            size = min(len(allowed), len(scores))
            scores[:size].masked_fill_(~allowed[:size].to(scores.device), -math.inf)
            scores[size:] = -math.inf
        elif self.must_go_on:
            ends = torch.tensor(sorted(self.end_tokens), dtype=torch.long, device=scores.device)
            scores[ends] = -math.inf

    def _allowed(self, matcher: Matcher) -> Tensor:
        """[vocab] whether a token may come next; where only an end may, `min_tokens` yields."""
        allowed = matcher.allowed(self.end_tokens)
        if self.must_go_on:
            going_on = allowed.clone()
            ends = [token for token in self.end_tokens if token < len(allowed)]
            going_on[torch.tensor(ends, dtype=torch.long)] = False
            return going_on if going_on.any() else allowed
        return allowed

    def uniform(self) -> float:
        """The next of the answer's own random numbers in [0, 1)."""
        return self._random.random()

    def record(self, token: int) -> bool:
        """Count a token as part of the answer, and say whether the answer ends with it.

        Raises:
            ConstraintError: the constraint costs too much.
        """
        self.num_tokens += 1
        if self._seen is not None:
            self._seen.add(token)
        if token in self.end_tokens:
            return True
        if self.matcher is None:
            return False
        self.matcher.accept(token)
        return self.matcher.is_finished


class _Seen:
    """Tokens that penalties look at, and how often the answer holds them."""

    def __init__(self, request: Request) -> None:
        sampling = request.sampling
        prompt = set(request.prompt) if sampling.repetition_penalty != 1 else set()
        self._places = {token: place for place, token in enumerate(sorted(prompt))}
        room = 2 * len(prompt) + 64
        self._ids = torch.zeros(room, dtype=torch.long)
        self._counts = torch.zeros(room, dtype=torch.float64)
        if prompt:
            self._ids[: len(prompt)] = torch.tensor(sorted(prompt))

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = torch.cat((self._ids, torch.zeros_like(self._ids)))
            self._counts = torch.cat((self._counts, torch.zeros_like(self._counts)))
        self._ids[place] = token
        self._counts[place] += 1

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The ids, each once, and their counts."""
        size = len(self._places)
        return self._ids[:size].to(device), self._counts[:size].to(device)


def _has_penalty(request: Request) -> bool:
    sampling = request.sampling
    return (
        sampling.repetition_penalty != 1
        or sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
    )


def _bias(request: Request, vocab_size: int) -> tuple[list[int], list[float]] | None:
    """The biased ids with their biases."""
    bias = request.sampling.logit_bias
    for token, value in bias.items():
        if not 0 <= token < vocab_size or not math.isfinite(value):
            raise RequestError(
                f"logit_bias: {token}: {value!r}; token ids go from 0 to {vocab_size - 1}, and "
                "biases are finite numbers.",
                param="logit_bias",
            )
    return (list(bias), [_limited(value) for value in bias.values()]) if bias else None


def _penalised(scores: Tensor, counts: Tensor, sampling: Sampling) -> Tensor:
    """Scores of tokens that prompt or answer hold, after the penalties."""
    penalty = min(max(sampling.repetition_penalty, 1 / LARGEST), LARGEST)
    scores = torch.where(scores > 0, scores / penalty, scores * penalty)
    scores = scores - counts * _limited(sampling.frequency_penalty)
    return scores - (counts > 0) * _limited(sampling.presence_penalty)


def _limited(number: float) -> float:
    return min(max(number, -LARGEST), LARGEST)


def _bounded(scores: Tensor) -> Tensor:
    """As float32 without new infinities; tokens that are out already stay so."""
    bounded = scores.clamp(-LARGEST, LARGEST)
    return torch.where(scores == -math.inf, scores, bounded).float()


@torch.no_grad()
def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[Chosen]:
    """The next token of each answer, recorded in its chooser.

    A row that holds NaN or infinity, or where nothing is allowed, comes out with an `error`, and
    its answer cannot go on. The rows beside it are as they would be without it.

    Args:
        logits: [rows, vocab] in any float format; left as they are.
        choosers: one a row; none of them twice.
    """
    if not len(choosers):
        return []
    values, likeliest = logits.max(-1)
    ids = likeliest.tolist()
    errors: dict[int, Exception] = {}
    for row, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            errors[row] = ChoiceError(f"The model's logits are not finite: the highest is {value}.")
    special = [row for row, c in enumerate(choosers) if not c.is_plain and row not in errors]
    if special:
        special_ids = _choose_specially(logits, choosers, special, errors)
        for row, token in zip(special, special_ids, strict=True):
            ids[row] = token
    reported = _reported(logits, choosers, ids, errors)
    return [
        _record(chooser, ids[row], reported.get(row, NOTHING), errors.get(row))
        for row, chooser in enumerate(choosers)
    ]


def _record(chooser: Chooser, token: int, report: Report, error: Exception | None) -> Chosen:
    if error is None:
        try:
            return Chosen(token, *report, is_end=chooser.record(token))
        except ConstraintError as failure:
            error = failure
    return Chosen(NO_TOKEN, error=error)


def _choose_specially(
    logits: Tensor, choosers: Sequence[Chooser], rows: Sequence[int], errors: dict[int, Exception]
) -> list[int]:
    """The tokens of rows that are drawn or changed; what fails is put into `errors`."""
    scores = logits[list(rows)].float()  # [some rows, vocab]; a copy
    for place, row in enumerate(rows):
        try:
            choosers[row].change(scores[place])
        except ConstraintError as error:
            errors[row] = error
    values, likeliest = scores.max(-1)
    ids: list[int] = likeliest.tolist()
    for row, value in zip(rows, values.tolist(), strict=True):
        if not math.isfinite(value):
            errors.setdefault(row, ChoiceError("The constraint leaves no token to choose."))
    drawn = [
        place
        for place, row in enumerate(rows)
        if row not in errors and not choosers[row].sampling.is_greedy
    ]
    if drawn:
        shape = _shape([choosers[rows[place]] for place in drawn], scores.device)
        is_all = len(drawn) == len(rows)
        most = values if is_all else values[drawn]
        tokens = draw(scores if is_all else scores[drawn], most, shape).tolist()
        for place, token in zip(drawn, tokens, strict=True):
            ids[place] = token
    return ids


def _shape(choosers: Sequence[Chooser], device: torch.device) -> Shape:
    """How rows are drawn from; takes the next random number of each."""
    all_of = [chooser.sampling for chooser in choosers]
    floats = torch.tensor(
        [(each.temperature, each.top_p, each.min_p) for each in all_of], dtype=torch.float64
    ).to(device)
    return Shape(
        temperature=floats[:, 0].clamp(max=HIGHEST_TEMPERATURE).float(),
        top_k=torch.tensor([each.top_k for each in all_of]).to(device),
        top_p=floats[:, 1],
        min_p=floats[:, 2].float(),
        uniform=torch.tensor([each.uniform() for each in choosers], dtype=torch.float64).to(device),
    )


def _reported(
    logits: Tensor, choosers: Sequence[Chooser], ids: Sequence[int], errors: dict[int, Exception]
) -> dict[int, Report]:
    """The log-probabilities of rows that ask for them."""
    asked = {
        row: chooser.num_logprobs
        for row, chooser in enumerate(choosers)
        if chooser.num_logprobs is not None and row not in errors
    }
    if not asked:
        return {}
    logprobs = logits[list(asked)].float().log_softmax(-1)  # [asked, vocab]
    own = logprobs.gather(1, torch.tensor([[ids[row]] for row in asked]).to(logits.device))
    most = min(max(asked.values()), logits.shape[-1])
    best = logprobs.topk(most, dim=-1)
    columns = (own[:, 0].tolist(), best.indices.tolist(), best.values.tolist())
    return {
        row: (value, tuple(zip(tokens[:num], values[:num], strict=True)))
        for (row, num), value, tokens, values in zip(asked.items(), *columns, strict=True)
    }


def choose_ahead(
    logits: Tensor, choosers: Sequence[Chooser], proposals: Sequence[Sequence[int]]
) -> list[list[Chosen]]:
    """The next tokens of answers whose guessed continuations the model has read.

    Each token is chosen as without guesses, with the same random number, and the next only where
    the guess was the token chosen: the answer is the same with and without guesses.

    Args:
        logits: [rows, vocab]; of each answer a row after what is written and one after each
            proposed token, the answers one after the other.
        choosers: one an answer.
        proposals: guessed token ids of each answer; may be empty.

    Returns:
        The tokens of each answer, one or more: so many less one of the proposed ones were right,
        and the model has read all but the last.
    """
    lengths = [len(each) + 1 for each in proposals]
    starts = [end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
    answers: list[list[Chosen]] = [[] for _ in choosers]
    going_on, depth = list(range(len(choosers))), 0
    while going_on:
        rows = [starts[place] + depth for place in going_on]
        read = logits if len(rows) == len(logits) else logits[rows]
        for place, chosen in zip(
            going_on, choose(read, [choosers[place] for place in going_on]), strict=True
        ):
            answers[place].append(chosen)
        going_on = [
            place
            for place in going_on
            if depth < len(proposals[place])
            and answers[place][-1].id == proposals[place][depth]
            and not answers[place][-1].is_end
        ]
        depth += 1
    return answers
