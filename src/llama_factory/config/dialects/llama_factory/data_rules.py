"""Flat keys of the rows that mean something only together."""

from llama_factory.config.dialects.llama_factory.translation import Translation


def held_out(done: Translation) -> None:
    """val_size: a share of the rows, not a number of them."""
    size = done.values.get("val_size")
    if size is None:
        return
    if size >= 1:
        done.refuse(
            "val_size",
            f"{size:g} is a number of rows; rows are held out by content here, so give a fraction "
            "such as 0.1, or name a set in eval_dataset.",
        )
        return
    if size > 0 and "eval_dataset" in done.given:
        done.refuse("val_size", "contradicts eval_dataset: give one of them.")
    done.put("data.held_out_fraction", size, "val_size")


def rows(done: Translation) -> None:
    """Mixing, and what may not go together."""
    if done.is_on("train_on_prompt") and done.is_on("mask_history"):
        done.refuse("mask_history", "contradicts train_on_prompt, which teaches every token.")
    if "dataset" in done.given and "data_path" in done.given:
        done.refuse("data_path", "contradicts dataset: give one of them.")
    _shares(done)


def _shares(done: Translation) -> None:
    given = done.values.get("interleave_probs")
    if given is None:
        return
    sets = done.values.get("dataset") or []
    if done.values.get("mix_strategy", "concat") == "concat":
        done.refuse("interleave_probs", "needs mix_strategy interleave_under or interleave_over.")
    elif len(sets) != len(given):
        told = f"{len(given)} shares for {len(sets)} names in dataset: give one for each."
        done.refuse("interleave_probs", told)
    else:
        try:
            shares = dict(zip(sets, map(float, given), strict=True))
            done.put("data.mix.shares", shares, "interleave_probs")
        except ValueError:
            done.refuse("interleave_probs", f"must be numbers, as in 0.7,0.3; it is {given}.")
