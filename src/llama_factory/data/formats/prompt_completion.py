"""One question and one answer under other names: prompt and completion, question and answer."""

from collections.abc import Mapping
from typing import Any

from llama_factory.data import row_sentences as texts
from llama_factory.data.formats import Content, Format, register_format
from llama_factory.data.formats.alpaca import ROW_NAMES, parse_alpaca
from llama_factory.data.formats.content import VERDICT_NAMES, content_of
from llama_factory.data.formats.layout import Layout, infer_style
from llama_factory.data.formats.row_values import list_of
from llama_factory.data.formats.turn_parsing import check_order, parse_turns


def parse_prompt_completion(row: Mapping[str, Any], layout: Layout) -> Content:
    """As an Alpaca row; question and answer may also be lists of turns (TRL's conversations)."""
    prompt = layout.columns.prompt or "prompt"
    if not isinstance(row[prompt], list):
        return parse_alpaca(row, layout)
    answer = layout.columns.response or "completion"
    listed = [*row[prompt], *list_of(row, answer, texts.TURNS_LIKE_QUESTION())]
    style = infer_style(listed)
    turns = parse_turns(listed, style)
    check_order(turns, style, ends_with_answer=True)
    return content_of(tuple(turn.message for turn in turns), row, layout)


register_format(
    Format(
        name="prompt and completion",
        rank=60,
        names={
            "prompt": ("prompt", "question", "query", "input"),
            "response": ("completion", "response", "answer", "output"),
            **ROW_NAMES,
            **VERDICT_NAMES,
        },
        required=("prompt", "response"),
        layout=Layout("alpaca"),
        parse=parse_prompt_completion,
    )
)
