"""All settings of a run: those of a round, and serving."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from llama_factory.rounds.settings import RoundConfig
from llama_factory.serving.settings import ServingSettings


class RunConfig(RoundConfig):
    """The whole settings file."""

    serving: ServingSettings = ServingSettings()
    """The API server."""
    output_dir: Path | None = None
    """Where `llama-factory train` writes its adapter. A workspace does not need it."""
    overwrite_output_dir: bool = False
    """`llama-factory train` replaces a finished run in `output_dir`, once the new one is whole.
    Until then that one is made in a hidden folder beside it, so both take room on the disk. A run
    that was interrupted goes on in any case, and without `do_train` nothing is removed."""
    resume_from_checkpoint: bool | Path | None = None
    """Empty: `llama-factory train` goes on where an interrupted run of the same settings and rows
    stopped. A checkpoint of it: goes on from there. `true`: refuses to begin where there is none.
    `false`: begins anew, and keeps what is there in `checkpoints.replaced`."""
    log_dir: Path | None = None
    """Where `llama-factory train` writes TensorBoard's logs. Empty: `runs` in `output_dir`."""
    do_train: bool = True
    """`llama-factory train` trains. Off, with `do_predict`: it only answers, with the adapters in
    `model.adapter_paths` or with the base model alone."""
    do_predict: bool = False
    """Answer the held-out rows at the end: `generated_predictions.jsonl` with every answer,
    `predict_results.json` with BLEU and ROUGE."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.do_train and not self.do_predict:
            raise ValueError(
                "do_train is off and so is do_predict: nothing is to be done. Turn one on; "
                "`llama-factory evaluate` tests a model."
            )
        return self
