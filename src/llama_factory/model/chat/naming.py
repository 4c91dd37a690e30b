"""Gives a tokenizer a named chat template, or checks the name against the template that it has."""

import logging

from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Message
from llama_factory.model.chat.template import REFUSALS, Renderer, first_difference
from llama_factory.model.chat.templates import NamedTemplate, find, names

logger = logging.getLogger(__name__)

PROBE = (
    Message("user", "Hello?"),
    Message("assistant", "你好。"),
    Message("user", "And now?"),
    Message("assistant", "Good."),
)
"""A conversation on which two templates are compared."""

SHOWN = 20
"""Characters shown on either side of a difference."""


def give_template(
    tokenizer: PreTrainedTokenizerBase, name: str | None, *, where: str, replaces: bool = False
) -> None:
    """Make sure that a tokenizer has a chat template; its own one wins unless it is replaced.

    Args:
        tokenizer: gets the named template where it has none.
        name: the named template, if any.
        where: what the tokenizer belongs to, for messages.
        replaces: whether the named template is used in any case.

    Raises:
        ModelError: there is neither a template nor a name, or the name is unknown.
    """
    named = None if name is None else find(name)
    if named is None and tokenizer.chat_template is None:
        raise ModelError(
            f"{where}: the tokenizer has no chat template, so messages cannot become tokens. Use "
            "the instruction-tuned variant of this model, or set model.template to the format "
            f"that it was trained with, one of: {', '.join(names())}."
        )
    if named is None:
        return
    if replaces or tokenizer.chat_template is None:
        _adopt(tokenizer, named, where)
    else:
        _compare(tokenizer, named, where)


def _adopt(tokenizer: PreTrainedTokenizerBase, named: NamedTemplate, where: str) -> None:
    tokenizer.chat_template = named.jinja
    pieces = [_spelling(tokenizer, token) for token in named.tokens]
    missing = [piece for piece in pieces if not _is_single(tokenizer, piece)]
    if missing:
        logger.warning(
            "%s: %s of template '%s' %s no single token of this vocabulary and will be spelt out. "
            "A model that was not trained with them learns this format slowly; the templates "
            "'default', 'vicuna' and 'alpaca' need none.",
            where,
            ", ".join(missing),
            named.name,
            "is" if len(missing) == 1 else "are",
        )
    end = pieces[-1]
    if end not in missing and end != tokenizer.eos_token:
        # Generation stops at the tokenizer's end token, so it must be the one that is taught.
        logger.warning("%s: answers now end with %s, not %s.", where, end, tokenizer.eos_token)
        tokenizer.eos_token = end


def _spelling(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """`eos_token` and the like as the tokenizer spells them; empty where it has none."""
    return str(getattr(tokenizer, token) or "") if token.endswith("os_token") else token


def _is_single(tokenizer: PreTrainedTokenizerBase, piece: str) -> bool:
    return piece in tokenizer.get_vocab()


def _compare(tokenizer: PreTrainedTokenizerBase, named: NamedTemplate, where: str) -> None:
    """Tell once where the tokenizer's own template and the named one part."""
    own = Renderer(tokenizer)
    kept = tokenizer.chat_template
    try:
        ours = own.text(PROBE, ask=False)
        tokenizer.chat_template = named.jinja
        theirs = own.text(PROBE, ask=False)
    except REFUSALS as error:
        logger.warning("%s: template '%s' cannot be compared: %s", where, named.name, error)
        return
    finally:
        tokenizer.chat_template = kept
    if ours == theirs:
        return
    first = first_difference(ours, theirs)
    around = slice(max(0, first - SHOWN), first + SHOWN)
    logger.warning(
        "%s: model.template '%s' differs from the tokenizer's own chat template, which is used "
        "(model.replace_template: true would use the named one): first at character %d, %r in its "
        "own and %r in '%s'.",
        where,
        named.name,
        first,
        ours[around],
        theirs[around],
        named.name,
    )
