"""The settings that say how rows become tokens, as the model layer takes them."""

from llama_factory.data.settings import DataSettings
from llama_factory.model.chat.masks import EncodeOptions
from llama_factory.model.chat.prompt import PromptFormat


def encode_options(settings: DataSettings) -> EncodeOptions:
    """What `data:` says about lengths and about which tokens are taught."""
    return EncodeOptions(
        max_tokens=settings.max_tokens,
        train_on_prompt=settings.train_on_prompt,
        mask_history=settings.mask_history,
        format=PromptFormat(settings.enable_thinking),
    )
