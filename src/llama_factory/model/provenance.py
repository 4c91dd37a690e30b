"""What a saved adapter was trained on: recorded beside it, and required wherever it is read."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import ModelError, suggest

ADAPTER_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TOKENIZER_FILE = "tokenizer_config.json"
HEAD_FILE = "value_head.safetensors"
"""Beside the weights of a reward model."""
RECORD = "trained_on.json"
MERGED = "merged_adapters"
"""Copies of the adapters that the base model carried in its weights, numbered in their order."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """What an adapter was trained on top of.

    Attributes:
        fingerprint: of the base model; empty where nothing is recorded, as by other programs.
        merged: folders of the adapters that were merged into the base before, in their order.
    """

    fingerprint: str = ""
    merged: tuple[Path, ...] = ()


def describe_missing(folder: Path) -> str:
    """What a folder that holds no adapter lacks, and the nearest one beside it that has it."""
    what = f"holds no {ADAPTER_FILE}" if folder.is_dir() else "does not exist"
    around = folder.parent if folder.parent.is_dir() else Path()
    known = [path.parent.name for path in around.glob(f"*/{ADAPTER_FILE}")]
    return f"{what}.{suggest(folder.name, known)}"


def record(folder: Path, provenance: Provenance) -> None:
    """Write beside an adapter what it was trained on, with copies of the merged adapters.

    The copies make the folder complete: it answers the same when the others are moved or gone.
    """
    copies = folder / MERGED
    shutil.rmtree(copies, ignore_errors=True)
    for number, each in enumerate(provenance.merged, 1):
        own = copies / str(number)
        own.mkdir(parents=True)
        for name in (ADAPTER_FILE, WEIGHTS_FILE):
            shutil.copyfile(each / name, own / name)
    values = {"base_fingerprint": provenance.fingerprint, "merged": len(provenance.merged)}
    files.write_json(folder / RECORD, values)


def read(folder: Path) -> Provenance:
    """What an adapter was trained on; nothing for one of another program.

    Raises:
        ModelError: the record is damaged, or an adapter that it names is gone.
    """
    file = folder / RECORD
    if not file.is_file():
        return Provenance()
    try:
        values = files.read_json(file)
        fingerprint, count = str(values["base_fingerprint"]), int(values["merged"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is damaged and cannot be read: {error!r}") from error
    merged = tuple(folder / MERGED / str(number) for number in range(1, count + 1))
    gone = [each for each in merged if not (each / WEIGHTS_FILE).is_file()]
    if gone:
        raise ModelError(
            f"{folder} fits the base model only with {count} other adapter(s) merged into it, and "
            f"{gone[0]} is gone. Copy the whole folder that training wrote."
        )
    return Provenance(fingerprint, merged)


def with_merged(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Adapters with all that was merged under them, each once, in the order in which they apply.

    Raises:
        ModelError: one was trained on other merged adapters than those named before it.
    """
    order: list[Path] = []
    for folder in folders:
        under = read(folder).merged
        if not order:
            order += under
        elif under and [*map(_identity, under)] != [*map(_identity, order)]:
            raise ModelError(
                f"{folder} was trained on the base model with {len(under)} other adapter(s) "
                f"merged into it, which are not those named before it "
                f"({', '.join(map(str, order))}). Name {folder} first: what it was trained on lies "
                f"in {folder / MERGED} and is merged by itself."
            )
        elif not under and read(folder).fingerprint:
            logger.warning(
                "%s was trained on the base model alone and is now added on top of %s. Nothing "
                "was ever trained on their sum: look at its answers before you rely on them.",
                folder,
                order[-1],
            )
        order.append(folder)
    return tuple(order)


def require_base(folder: Path, fingerprint: str, base_model: str) -> None:
    """Make sure that an adapter is put on the base model that it was trained on.

    Args:
        folder: a saved adapter.
        fingerprint: of the base model's files.
        base_model: its name, for the message.

    Raises:
        ModelError: it was trained on another one.
    """
    trained_on = read(folder).fingerprint
    if trained_on not in ("", fingerprint):
        raise ModelError(
            f"{folder} was trained on another base model than {base_model}: the fingerprint of "
            f"the weights is {fingerprint[:12]}, not {trained_on[:12]} ({RECORD}), so the adapter "
            "does not fit. Give the base it was trained on."
        )


def has_rows(folder: Path) -> bool:
    """Whether an adapter has rows of its own in the embeddings, maybe of new tokens."""
    config = files.read_json(folder / ADAPTER_FILE)
    whole = config.get("modules_to_save") and (folder / TOKENIZER_FILE).is_file()
    return bool(config.get("trainable_token_indices") or whole)


def require_plain(folder: Path) -> None:
    """Make sure that an adapter needs nothing but the untouched base model under it.

    Raises:
        ModelError: it needs merged adapters or new tokens, and what to do about it.
    """
    needs = []
    if read(folder).merged:
        needs.append("other adapters merged into it")
    config = files.read_json(folder / ADAPTER_FILE)
    if config.get("trainable_token_indices"):
        needs.append("new tokens in its vocabulary")
    if needs:
        raise ModelError(
            f"{folder} fits the base model only with {' and '.join(needs)}, so it cannot answer "
            "beside the untouched base. Make one model of them first: llama-factory export "
            f"{folder} NEW_FOLDER, and serve that."
        )


def require_sum(folder: Path) -> None:
    """Make sure that what an adapter does is to add a product to the weights of linear layers.

    Raises:
        ModelError: it does something else, which does not add up with other adapters.
    """
    config = files.read_json(folder / ADAPTER_FILE)
    beside = ("use_dora", "modules_to_save", "trainable_token_indices")
    more = [name for name in beside if config.get(name)]
    if config.get("peft_type") == "LORA" and config.get("bias", "none") == "none" and not more:
        return
    what = more[0] if more else f"{config.get('peft_type')} with bias {config.get('bias')}"
    raise ModelError(
        f"{folder}: only plain LoRA adapters add up, and this one has {what}. Export the version "
        "instead, and start a workspace on the result: llama-factory export."
    )


def _identity(folder: Path) -> str:
    return files.sha256(folder / WEIGHTS_FILE)
