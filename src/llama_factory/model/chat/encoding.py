"""Rows -> tokens, which of them are trained, and with what weight."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from transformers import PreTrainedTokenizerBase

from llama_factory.core.types import Example, Message
from llama_factory.data.settings import DataSettings
from llama_factory.model.chat import tokens
from llama_factory.model.chat.long_prompts import shared, shortened
from llama_factory.model.chat.masks import Conversation, answer_spans, turns_to_lose, write
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.chat.template import REFUSALS, Renderer, prompt_tokens


@dataclass(frozen=True)
class EncodeOptions:
    """How rows become tokens.

    Attributes:
        max_tokens: longest row. Longer ones lose their oldest exchanges, then the answer's end.
        train_on_prompt: every token is trained, not the answers alone.
        mask_history: only the last answer of a conversation is trained.
        format: how conversations are written.
        max_trained: a row ends after so many trained tokens, where answers alone are trained;
            None: with its last one.
        cuts_prompts: of a row whose prompt fills all the room the question's end is cut out; else
            the row is left out.
        shares_pairs: prompt and answers of a long pair are cut by their lengths, and lose no turns.
        cuts_texts: of a long text the first part alone is taught.
    """

    max_tokens: int
    train_on_prompt: bool = False
    mask_history: bool = False
    format: PromptFormat = USUAL
    max_trained: int | None = None
    cuts_prompts: bool = False
    shares_pairs: bool = False
    cuts_texts: bool = False


def encode_options(settings: DataSettings) -> EncodeOptions:
    """The settings of `data:` about lengths and about which tokens are trained."""
    return EncodeOptions(
        max_tokens=settings.max_tokens,
        train_on_prompt=settings.train_on_prompt,
        mask_history=settings.mask_history,
        format=PromptFormat(
            settings.enable_thinking,
            default_system=settings.default_system or "",
            tool_format=settings.tool_format or "",
        ),
        cuts_prompts=settings.long_prompts == "cut",
        shares_pairs=settings.long_pairs == "share",
        cuts_texts=settings.long_texts == "cut",
    )


@dataclass(frozen=True)
class EncodedRow:
    """One row as tokens.

    Attributes:
        ids: token ids of the whole row.
        is_trained: for each token, whether the model is taught to produce it. Never the first,
            which nothing comes before.
        weight: factor on the row's loss.
        weights: for each trained token, a further factor on its loss; None where all are 1.
        lost_turns: turns at the beginning that were left out because the row was too long.
        lost_tokens: tokens that were left out in all.
        cut_tokens: of these, those at the end of its answers: where they stop is not taught.
        is_desirable: whether people liked the answer; what nobody judged counts as liked.
    """

    ids: tuple[int, ...]
    is_trained: tuple[bool, ...]
    weight: float = 1.0
    weights: tuple[float, ...] | None = None
    lost_turns: int = 0
    lost_tokens: int = 0
    cut_tokens: int = 0
    is_desirable: bool = True

    @property
    def num_trained(self) -> int:
        """How many tokens are trained."""
        return sum(self.is_trained)


@dataclass(frozen=True)
class Unfit:
    """A row that cannot be taught to this model, and why."""

    reason: str


@dataclass(frozen=True)
class TooLong(Unfit):
    """A row whose prompt leaves no room for an answer."""

    num_tokens: int


def encode(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> EncodedRow | Unfit:
    """Tokens of a row, with every answer trained up to its end token and nothing after it.

    Plain text is trained whole, with an end token.

    Raises:
        ModelError: the template writes earlier turns differently once others follow.
    """
    untaught = _why_not(example)
    if untaught:
        return Unfit(untaught)
    if example.is_text:
        return _encode_text(example, tokenizer, options)
    renderer = Renderer(tokenizer, example.tools, options.format)
    try:
        return _encode_talk(example, renderer, options)
    except REFUSALS as error:
        return _refused(error)


def _why_not(example: Example) -> str:
    """Why a row must not be taught as it stands; empty where it may."""
    if example.images:
        return "it shows pictures, and only text can be taught yet."
    if example.is_desirable is False:
        return "its answer is marked as bad: taught like this, the model would learn to give it."
    return ""


def encode_pair(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> tuple[EncodedRow, EncodedRow] | Unfit:
    """A preference pair: the better and the worse answer after the very same prompt.

    Only the two last answers are trained. Where one of them is too long, both lose the same turns.

    Raises:
        ModelError: the template writes earlier turns differently once others follow.
    """
    if example.rejected is None:
        return Unfit("it is no preference pair: it has one answer only")
    if example.images:
        return Unfit(_why_not(example))
    options = replace(options, train_on_prompt=False, mask_history=True)
    renderer = Renderer(tokenizer, example.tools, options.format)
    worse = replace(example, messages=(*example.prompt, example.rejected), rejected=None)
    try:
        if options.shares_pairs:
            return _sharing(example, [write(row, renderer) for row in (example, worse)], options)
        lost = max(_lost_turns(row, renderer, options.max_tokens) for row in (example, worse))
        talks = [write(row, renderer, lost_turns=lost) for row in (example, worse)]
        longest = max(len(talk.tokens.ids) for talk in talks)
        chosen, rejected = (_encode_left(example, talk, options, longest) for talk in talks)
    except REFUSALS as error:
        return _refused(error)
    if isinstance(chosen, Unfit):
        return chosen
    return rejected if isinstance(rejected, Unfit) else (chosen, rejected)


def _sharing(
    example: Example, talks: Sequence[Conversation], options: EncodeOptions
) -> tuple[EncodedRow, EncodedRow] | Unfit:
    """A pair whose prompt and answers share the room by their lengths.

    Answers that are judged alone, as in KTO, are cut each by its own length.
    """
    whole = [_factors(talk, options) for talk in talks]
    spans = [[i for i, factor in enumerate(factors) if factor] for _, factors in whole]
    if not all(spans):
        return Unfit("no turn of this row is trained: its answer's weight is 0")
    rows = []
    kept_places = shared(spans, options.max_tokens, is_apart=example.is_desirable is not None)
    for (ids, factors), span, kept in zip(whole, spans, kept_places, strict=True):
        left = [ids[i] for i in kept], [factors[i] for i in kept]
        if not any(left[1]):
            reason = f"its prompt leaves no token to an answer (data.max_tokens; it has {len(ids)})"
            return TooLong(reason, len(ids))
        rows.append(_row(example, *left, lost=len(ids) - len(kept), cut=len(span)))
    return rows[0], rows[1]


def _row(
    example: Example, ids: Sequence[int], factors: list[float], *, lost: int, cut: int
) -> EncodedRow:
    """A row of tokens and their factors, of whose answers `cut` tokens there were."""
    factors[:1] = [0.0]  # nothing comes before the first token
    weights = tuple(factor for factor in factors if factor)
    return EncodedRow(
        ids=tuple(ids),
        is_trained=tuple(factor != 0 for factor in factors),
        weight=example.weight,
        weights=None if set(weights) == {1.0} else weights,
        lost_tokens=lost,
        cut_tokens=cut - len(weights),
        is_desirable=example.is_desirable is not False,
    )


def _lost_turns(example: Example, renderer: Renderer, max_tokens: int) -> int:
    fits = len(write(example, renderer).tokens.ids) <= max_tokens
    return 0 if fits else turns_to_lose(example, renderer, max_tokens)


def prompt_ids(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> list[int] | Unfit:
    """What a row asks, as tokens up to where the answer begins; plain text asks with itself."""
    if example.is_text:
        return _begun(example, tokenizer, options)
    renderer = Renderer(tokenizer, example.tools, options.format)
    try:
        return list(prompt_tokens(example.prompt, renderer).ids)
    except REFUSALS as error:
        return _refused(error)


def _refused(error: Exception) -> Unfit:
    return Unfit(f"the model's chat template refuses this row: {error}")


def _begun(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> list[int]:
    """The tokens of a plain text."""
    control = tokens.find_control_tokens(tokenizer, "", (), options.format.text_tokens)
    return tokens.text_ids(tokenizer, example.answer, control)


def text_ids(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> list[int]:
    """All tokens of a plain text, with an end token."""
    ids = _begun(example, tokenizer, options)
    end = options.format.end_id(tokenizer)
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _encode_text(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> EncodedRow | Unfit:
    ids = text_ids(example, tokenizer, options)
    if len(ids) < 2:
        return Unfit("the text is empty")
    kept = tuple(ids[: options.max_tokens])
    if options.max_trained is not None:
        kept = kept[: options.max_trained + 1]
    is_trained = (False, *[True] * (len(kept) - 1))
    cut = max(0, len(ids) - options.max_tokens)
    lost = len(ids) - len(kept)
    return EncodedRow(kept, is_trained, example.weight, lost_tokens=lost, cut_tokens=cut)


def _encode_talk(
    example: Example, renderer: Renderer, options: EncodeOptions
) -> EncodedRow | Unfit:
    whole = write(example, renderer)
    if len(whole.tokens.ids) <= options.max_tokens:
        return _encode_left(example, whole, options)
    lost = turns_to_lose(example, renderer, options.max_tokens)
    left = write(example, renderer, lost_turns=lost)
    code = _encode_left(example, left, options)
    if isinstance(code, Unfit):
        return code
    gone = len(whole.tokens.ids) - len(left.tokens.ids)
    return replace(code, lost_tokens=code.lost_tokens + gone)


def _encode_left(
    example: Example, talk: Conversation, options: EncodeOptions, longest: int = 0
) -> EncodedRow | Unfit:
    """What is left of a row; its end is cut off where even that is too long.

    Args:
        example: the row.
        talk: what is left of its turns.
        options: how long it may be.
        longest: tokens of the longest row with the same prompt.
    """
    ids, factors = _factors(talk, options)
    if not any(factors):
        return Unfit("no turn of this row is trained: every answer's weight is 0")
    num_tokens, most, num_factors = len(ids), options.max_tokens, _num_trained(factors)
    if options.cuts_prompts and not any(factors[:most]):
        longest = max(longest, num_tokens)
        ids, factors = shortened(talk, ids, factors, most, longest)
    trained = [i for i, factor in enumerate(factors[:most]) if factor]
    if not trained:
        reason = f"its prompt fills all {most} tokens and leaves none to an answer"
        return TooLong(f"{reason} (data.max_tokens; the row has {num_tokens})", num_tokens)
    if not options.train_on_prompt:
        trained = trained[: options.max_trained]
    end = trained[-1] + 1
    weights = tuple(factors[i] for i in trained)
    return EncodedRow(
        ids=tuple(ids[:end]),
        is_trained=tuple(factor != 0 for factor in factors[:end]),
        weight=example.weight,
        weights=None if set(weights) == {1.0} else weights,
        lost_turns=talk.lost_turns,
        lost_tokens=max(0, num_tokens - most),
        cut_tokens=num_factors - _num_trained(factors[:most]),
        is_desirable=example.is_desirable is not False,
    )


def _num_trained(factors: Sequence[float]) -> int:
    return sum(factor != 0 for factor in factors)


def _factors(talk: Conversation, options: EncodeOptions) -> tuple[list[int], list[float]]:
    """Token ids, and for each the factor on its loss: 0 where it is not trained."""
    ids = list(talk.tokens.ids)
    usual = 1.0 if options.train_on_prompt else 0.0
    factors = [usual] * len(ids)
    weights = {number: talk.messages[number].weight for number in _answers(talk.messages, options)}
    unusual = [number for number, weight in weights.items() if weight != usual]
    after_last = len(ids)
    for number, spans in answer_spans(talk, unusual).items():
        for token in chain.from_iterable(map(talk.tokens.covered, spans)):
            factors[token] = weights[number]
            after_last = token + 1 if number == len(talk.messages) - 1 else after_last
    _add_end(talk, ids, factors, after_last)
    factors[:1] = [0.0]  # nothing comes before the first token
    return ids, factors


def _add_end(talk: Conversation, ids: list[int], factors: list[float], after_last: int) -> None:
    """An end token where the template writes none, or the model would not learn to stop.

    It takes the place of what the template writes after the last answer.
    """
    end = talk.renderer.format.end_id(talk.renderer.tokenizer)
    if after_last and end is not None and not talk.renderer.habits.end:
        ids[after_last:] = [end]
        factors[after_last:] = [factors[after_last - 1]]


def _answers(messages: Sequence[Message], options: EncodeOptions) -> list[int]:
    """The assistant's turns that may be trained."""
    answers = [i for i, turn in enumerate(messages) if turn.role == "assistant"]
    only_last = options.mask_history and not options.train_on_prompt
    return answers[-1:] if only_last else answers


Sequences = tuple[EncodedRow, ...]
"""What a row stands for, one or several token sequences that never see each other."""
Encoder = Callable[[Example, PreTrainedTokenizerBase, EncodeOptions], Sequences | Unfit]


def encode_answers(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> Sequences | Unfit:
    """One sequence, of which the answers are trained."""
    code = encode(example, tokenizer, options)
    return code if isinstance(code, Unfit) else (code,)


def encode_document(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> Sequences | Unfit:
    """A text in parts of at most `max_tokens`, all of it trained; a conversation in one part.

    Where long texts are cut, there is one part.

    A part begins with the last token of the one before it, so that every token but the first of
    the text is predicted exactly once.
    """
    if not example.is_text:
        return encode_answers(example, tokenizer, replace(options, train_on_prompt=True))
    ids = text_ids(example, tokenizer, options)
    if len(ids) < 2:
        return Unfit("the text is empty")
    if options.cuts_texts:
        return (_first_part(example, ids, options.max_tokens),)
    stride = options.max_tokens - 1
    parts = [tuple(ids[at : at + options.max_tokens]) for at in range(0, len(ids) - 1, stride)]
    return tuple(
        EncodedRow(part, (False, *[True] * (len(part) - 1)), example.weight) for part in parts
    )


def _first_part(example: Example, ids: Sequence[int], most: int) -> EncodedRow:
    part, lost = tuple(ids[:most]), max(0, len(ids) - most)
    is_trained = (False, *[True] * (len(part) - 1))
    return EncodedRow(part, is_trained, example.weight, lost_tokens=lost, cut_tokens=lost)


ENCODERS: Mapping[str, Encoder] = {
    "answers": encode_answers,
    "pairs": encode_pair,
    "documents": encode_document,
}
