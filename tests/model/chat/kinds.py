"""Tokenizers of several kinds, and chat templates like those of well-known models."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llama_factory.model.base import give_template
from llama_factory.model.chat.templates import find
from tests.tiny import END, SENTENCES, START, make_tokenizer, wrap_tokenizer

WORDS = [
    *SENTENCES,
    "user\nassistant\nsystem\ntool\n",
    "    return x + 1\n\n1. First\n  * item",
] * 3

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "marked": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}"
        "<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "marked without end": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "opened thought": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content %}"
        "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
        "<|im_start|>Assistant{{ c }}<|im_end|>{% else %}<|im_start|>{{ m.role }}{{ m.content }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>Assistant<think>\n{% endif %}"
    ),
    "opened or closed thought": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant</think>"
        "{{ m.content.split('</think>')[-1] }}<|im_end|>{% else %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant"
        "<{% if not (enable_thinking is defined and enable_thinking) %}/{% endif %}think>"
        "{% endif %}"
    ),
    "empty thought in the last answer": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last and '<think>' not in m.content %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
        "{% endif %}{% endif %}"
    ),
    "tools": (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>"
        "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "no marks of its own": (
        "{% for m in messages %}{{ m.role | upper }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
    ),
    "no generation prompt": (
        "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }} <|im_end|>"
        "{% else %}[INST] {{ m.content | trim }} [/INST]{% endif %}{% endfor %}"
    ),
}
"""Unmarked and marked ones, those of reasoning models, and some without special tokens."""


def pieces(prepend: str) -> PreTrainedTokenizerFast:
    """Unigram pieces, as SentencePiece makes them, with a mark for each space."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    alphabet = sorted({character for text in WORDS for character in text})
    ascii_letters = [chr(code) for code in range(32, 127)]
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        special_tokens=["<unk>", END, START],
        unk_token="<unk>",
        initial_alphabet=[*alphabet, *ascii_letters],
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return wrap_tokenizer(tokenizer, TEMPLATES["chatml"])


def byte_fallback() -> PreTrainedTokenizerFast:
    """Merged pieces whose every section gets a space before it, as the older Llamas' do."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    bytes_ = [f"<0x{code:02X}>" for code in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", END, START, *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator([text.replace("\n", " ") for text in WORDS], trainer)
    return wrap_tokenizer(tokenizer, TEMPLATES["chatml"])


def merging() -> PreTrainedTokenizerFast:
    """Byte-level merges, line breaks and spaces among them."""
    tokenizer = make_tokenizer()
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    spaced = ["assistant\n    return x", "assistant\n\n\n1. First", "assistant\n  * item"] * 50
    inner.train_from_iterator([*WORDS, *spaced], trainer)
    return wrap_tokenizer(inner, tokenizer.chat_template)


def named_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a named template, its tokens, a start and an end token."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    listed = [token for token in find(template).tokens if not token.endswith("os_token")]
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": listed}
    )
    give_template(tokenizer, template, where="tiny")
    return tokenizer


class WithoutPlaces:
    """A tokenizer which cannot tell the places of its tokens."""

    is_fast = False

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def __call__(self, text, **options):
        return self.inner(text, **options)


KINDS = {
    "byte-level": make_tokenizer,
    "byte-level that merges line breaks": merging,
    "pieces, first": lambda: pieces("first"),
    "pieces, always": lambda: pieces("always"),
    "pieces with bytes": byte_fallback,
    "without places": lambda: WithoutPlaces(merging()),
}
"""Makers of tokenizers by kind."""
