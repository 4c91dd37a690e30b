"""The output folder of a single run: a finished run in it is replaced as a whole, by a whole one.

The new run is made in a hidden folder beside the old one; at its end the two change names. Whenever
a program is killed, the output is the old run or the new one, and the next start tidies up.
"""

import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Progress

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

NEW, OLD = ".replacement", ".replaced"
"""Ends of the hidden names beside an output: of the run that will replace it, and of what it held
where a system cannot exchange two names in one step."""
MARK = ".replaces"
"""Lies in a run that is to replace another, until that one is gone."""
SAVING = ".weights"
"""In a folder: its weights are being written."""
PACKED = "quantized"
"""In a folder: the same model with packed weights, where it was trained for that."""
RESULTS = "all_results.json"
CARD = "README.md"
"""PEFT writes one where there is none; a person's stays."""
OF_A_RUN = (
    *("adapter_model.safetensors", "adapter_config.json", "trained_on.json", "merged_adapters"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("config.json", "generation_config.json", "value_head.safetensors"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.*"),
    *("metrics.jsonl", "trainer_log.jsonl", ".trainer_log.jsonl.lock", "training_loss.png", "runs"),
    *("training_*.png", "checkpoint-*", ".checkpoint-*", "checkpoints.replaced"),
    *("trainer_state.json", "train_results.json", "eval_results.json"),
    *(RESULTS, "predict_results.json", "generated_predictions.jsonl*", "checkpoints", ".data"),
    *(SAVING, MARK, PACKED),
)
"""What a run writes goes with it; all else in an output is a person's, and stays."""


def is_whole(folder: Path) -> bool:
    """Whether a folder holds weights, all of them."""
    return any(folder.glob("*.safetensors")) and not (folder / SAVING).exists()


def place(output: Path, *, replaces: bool) -> Path:
    """Where a run writes until it is whole: the output, or beside it where that is to be replaced.

    Raises:
        ConfigError: the output holds a trained model, and nobody asked to replace it.
    """
    if replaces and is_whole(output) and (output / RESULTS).is_file():
        return _beside(output, NEW)
    if is_whole(output):
        raise ConfigError(
            f"output_dir: {output} holds a trained model already. Give another folder, or remove "
            "this one first; nothing was changed."
        )
    return output


def begin(output: Path, *, replaces: bool, progress: Progress) -> Path:
    """Tidy up after a run that was killed, and make the place of this one.

    Raises:
        ConfigError: the output cannot be written to, or not be replaced as a whole.
    """
    _tidy(output)
    folder = place(output, replaces=replaces)
    if folder == output:
        return folder
    _require_replaceable(output)
    if is_whole(folder):  # killed just before it took its place
        finish(folder, output)
    if not folder.exists():
        folder.mkdir()
    (folder / MARK).touch()
    size = files.num_bytes(output)
    progress.say(
        f"{output} keeps the earlier run ({size / 1e6:.1f} MB) until the new one is whole. That "
        f"one is made in {folder}, so for a while both take room on the disk."
    )
    return folder


def give_up(folder: Path, output: Path) -> None:
    """Leave nothing of a run that came to no update; one that did is gone on with."""
    if folder != output and not any(folder.glob("checkpoints/step-*")):
        shutil.rmtree(folder)


def finish(folder: Path, output: Path) -> None:
    """Let a whole run take its place."""
    if folder == output:
        return
    if not files.exchange(folder, output):
        _real(output).rename(_beside(output, OLD))
        folder.rename(_real(output))
    _tidy(output)


def save(model: "AdaptedModel", folder: Path, card: Callable[[Path], None] | None = None) -> None:
    """Write what was trained into a folder, whole or not at all: see `is_whole`.

    Args:
        model: trained.
        folder: gets it.
        card: writes README.md into a folder; a person's own stays.
    """
    making = folder / SAVING
    shutil.rmtree(making, ignore_errors=True)
    model.save(making)
    if model.rounding != "none":
        model.save_packed(making / PACKED)
    if card is not None:
        card(making)
    paths = sorted(making.iterdir(), key=lambda path: path.suffix == ".safetensors")
    for path in paths:
        files.sync(path)
        final = folder / path.name
        if path.name == CARD and final.exists():
            path.unlink()
            continue
        if final.is_dir():
            shutil.rmtree(final)
        path.replace(final)
    making.rmdir()
    files.sync(folder)


def _real(output: Path) -> Path:
    """The folder itself, where the output is a link to it."""
    return output.resolve()


def _beside(output: Path, end: str) -> Path:
    real = _real(output)
    return real.with_name(f".{real.name}{end}")


def _tidy(output: Path) -> None:
    """Finish what a kill has left half-done."""
    new, old = _beside(output, NEW), _beside(output, OLD)
    if old.exists() and not _real(output).exists():
        (new if is_whole(new) else old).rename(_real(output))
    if not (output / MARK).exists():
        return
    for before in (old, new):
        if before.exists():
            _keep_what_is_no_run(before, output)
            shutil.rmtree(before)
    (output / MARK).unlink()


def _keep_what_is_no_run(before: Path, output: Path) -> None:
    for path in before.iterdir():
        is_of_a_run = any(fnmatch(path.name, pattern) for pattern in OF_A_RUN)
        if path.name == CARD or not (is_of_a_run or (output / path.name).exists()):
            path.replace(output / path.name)


def _require_replaceable(output: Path) -> None:
    real = _real(output)
    why = ""
    if os.path.ismount(real):
        why = "a disk or volume is mounted there"
    elif Path.cwd().is_relative_to(real):
        why = "this program was started in it"
    elif not os.access(real.parent, os.W_OK):
        why = f"{real.parent} cannot be written to"
    if why:
        raise ConfigError(
            f"overwrite_output_dir: {output} holds a finished run, which is replaced as a whole, "
            f"and {why}. Give a folder below it, or another one; nothing was changed."
        )
