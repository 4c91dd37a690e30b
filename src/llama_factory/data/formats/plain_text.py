"""Plain text, for continued pretraining."""

from llama_factory.data.formats import Format, register_format
from llama_factory.data.formats.alpaca import parse_alpaca
from llama_factory.data.formats.layout import Layout

register_format(
    Format(
        name="text",
        rank=90,
        names={"prompt": ("text", "content", "raw_content")},
        required=("prompt",),
        layout=Layout("alpaca"),
        parse=parse_alpaca,
    )
)
