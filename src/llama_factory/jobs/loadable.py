"""`checkpoint-N` folders beside a run: what PEFT and Transformers read, after so many updates.

The exact state from which a run goes on lies in `checkpoints`; these are for other programs.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_factory.core import files
from llama_factory.jobs import trainer_files
from llama_factory.model.adapted import AdaptedModel
from llama_factory.training.checkpoints import LOADABLE, Position
from llama_factory.training.settings import TrainingSettings

NAME = re.compile(rf"{LOADABLE}(\d+)")


@dataclass(frozen=True)
class LoadableCheckpoints:
    """Writes such folders.

    Attributes:
        folder: of the run, where they lie.
        model: that trains.
        settings: of the run.
        num_rows: that are taught.
    """

    folder: Path
    model: AdaptedModel
    settings: TrainingSettings
    num_rows: int

    def write(self, position: Position) -> None:
        """Write the newest one and remove the oldest ones, as many as `loadable_checkpoints` says.

        Args:
            position: where the run stands.
        """
        most = self.settings.loadable_checkpoints
        if not most:
            return
        final = self.folder / f"{LOADABLE}{position.step}"
        temporary = self.folder / f".{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        self.model.save(temporary)
        self.model.tokenizer.save_pretrained(temporary)
        trainer_files.write_state(
            temporary, self.folder, standing(position), self.settings, self.num_rows
        )
        shutil.rmtree(final, ignore_errors=True)
        files.publish(temporary, final)
        for old in self._too_many(position, most):
            shutil.rmtree(old)

    def _too_many(self, position: Position, most: int | Literal["all"]) -> Iterator[Path]:
        """The oldest ones; the best one stays where its weights are put back at the end."""
        if most == "all":
            return
        best = position.best_step if self.settings.restores_best else 0
        numbers = [int(match[1]) for match in map(_match, self.folder.iterdir()) if match]
        others = sorted((n for n in numbers if n != best), reverse=True)
        for number in others[most if best not in numbers else max(1, most - 1) :]:
            yield self.folder / f"{LOADABLE}{number}"


def _match(path: Path) -> re.Match[str] | None:
    return NAME.fullmatch(path.name)


def standing(position: Position) -> dict[str, float]:
    """Where a run stands, as its results say it at the end."""
    now = {
        "steps": position.step,
        "tokens": position.num_tokens,
        "seconds": position.seconds,
        "loss": position.loss,
    }
    if position.best_step:
        now |= {"best_step": position.best_step, "best_loss": position.best_loss}
    return now
