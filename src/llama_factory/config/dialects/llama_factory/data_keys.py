"""Flat keys of the rows: which are taught, which test, and how they become tokens."""

from llama_factory.config.dialects.llama_factory.key import (
    Key,
    boolean,
    count,
    ignored,
    missing,
    names,
    number,
    one_of,
    part,
    setting,
    text,
)

MIXES = ("concat", "interleave_under", "interleave_over")

DATA: dict[str, Key] = {
    "dataset": setting("data.dataset", names, "alpaca_en_demo,identity"),
    "dataset_dir": setting("data.dataset_dir", text, "data"),
    "data_path": setting("data.train_path", text, "data/train.jsonl"),
    "eval_dataset": setting("data.eval_dataset", names, "alpaca_zh_demo"),
    "val_size": part(
        "data.held_out_fraction",
        number,
        0.1,
        about="A fraction up to 0.5; rows are chosen by content. A number of rows is an error.",
    ),
    "cutoff_len": setting(
        "data.max_tokens",
        count,
        1024,
        about="Longer conversations lose their oldest turns first, then the answer's end; told.",
    ),
    "max_samples": setting("data.mix.max_samples", count, 1000),
    "mix_strategy": setting("data.mix.strategy", one_of(*MIXES), "concat"),
    "interleave_probs": part(
        "data.mix.shares", names, "0.7,0.3", about="One for each name in `dataset`."
    ),
    "train_on_prompt": setting("data.train_on_prompt", boolean, True),
    "mask_history": setting("data.mask_history", boolean, True),
    "enable_thinking": setting("data.enable_thinking", boolean, True),
    "preprocessing_num_workers": setting("data.num_workers", count, 16),
    "num_workers": setting("data.num_workers", count, 4),
    "packing": part("training.packing", boolean, True, about="Packed rows never see each other."),
    "neat_packing": part(
        "training.packing", boolean, True, about="The same: packed rows never see each other."
    ),
    "streaming": ignored("rows lie on disk, not in memory, in any case.", boolean, False),
    "buffer_size": ignored("all rows are shuffled, not a window of them.", count, 16384),
    "tokenized_path": ignored(
        "tokens are kept in a cache, found by content.", text, "saves/tokens"
    ),
    "overwrite_cache": ignored("the cache goes by content and is never stale.", boolean, True),
    "preprocessing_batch_size": ignored("rows are read in pieces of a fixed size.", count, 1000),
    "ignore_pad_token_for_loss": ignored("padding is never trained.", boolean, True),
    "media_dir": missing("pictures are not trained.", None),
    "default_system": missing("write it into the rows' `system` column.", None),
    "tool_format": missing("the chat template writes the tools.", None),
    "split_special_tokens": ignored(
        "special tokens in rows are plain text in any case, but for `new_special_tokens`.",
        boolean,
        True,
    ),
}
"""Rows and tokens."""
