"""Settings of the training layer."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import OneOf, Settings
from llama_factory.training.mirror import require_mirror
from llama_factory.training.objectives import OBJECTIVES, Objective
from llama_factory.training.objectives.sft import Sft
from llama_factory.training.optimizers import OPTIMIZERS, Optimizer
from llama_factory.training.optimizers.adamw import AdamW
from llama_factory.training.parallel import PARALLELS, Parallel
from llama_factory.training.parallel.ddp import Ddp
from llama_factory.training.reporters import REPORTERS, Reporter
from llama_factory.training.reporters.tensorboard import TensorBoard
from llama_factory.training.schedules import SCHEDULES, Cosine, Schedule

NO_INTERVAL = kind_of_sentence(
    "settings.no_interval",
    "must be a number of updates from 1, a share of the run below 1, or `epoch`",
)
STOPS_UNMEASURED = kind_of_sentence(
    "settings.stops_unmeasured",
    "early_stopping_steps counts measurements of the held-out loss, and eval_steps, which says "
    "when to measure, is empty.",
)
BEST_UNMEASURED = kind_of_sentence(
    "settings.best_unmeasured",
    "keep_best goes by the held-out loss, and eval_steps, which says when to measure it, is empty.",
)
WHOLE_ROWS_PACKED = kind_of_sentence(
    "settings.whole_rows_packed",
    "packing puts several rows into one, and the objective {objective} compares whole rows. "
    "Remove packing.",
)
WHOLE_ROWS_SHARED = kind_of_sentence(
    "settings.whole_rows_shared",
    "share_prefixes reads what rows begin with in common once, and {other} needs whole rows. "
    "Remove share_prefixes, or {other}.",
)


def _often(value: Any) -> Any:
    if value is None or value == "epoch":
        return value
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not (0 < number < 1 or (number >= 1 and number.is_integer())):
        raise ValueError(NO_INTERVAL())
    return number if number < 1 else int(number)


Every = int | float | Literal["epoch"]
"""How often something is done: every so many updates, after a share of the run, or each epoch."""


class TrainingSettings(Settings):
    """Length, speed and shape of one training run."""

    objective: Annotated[Objective, OneOf(OBJECTIVES)] = Sft()
    """What is minimised."""
    batch_size: int = Field(8, ge=1)
    """Rows in one update. Higher is steadier; the learning rate may then rise too."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Most rows computed at once. Empty: no limit but `micro_batch_tokens`. Same results."""
    micro_batch_tokens: int | None = Field(None, ge=16)
    """Most tokens computed at once, padding included. Lower needs less memory; results are the
    same. Empty: 512 on a CPU (1024 with `quick_layers`), 16384 on a GPU."""
    packing: bool | Literal["longest_first"] | None = None
    """Count short rows together as one row of an update, up to `data.max_tokens`. They never see
    each other, and nothing is padded either way: this sets how much goes into an update. `true`
    goes by the order of the rows; `longest_first` begins with the longest of a thousand rows, as
    LLaMA-Factory does. Empty: on for the objective `pretrain`, off for the others."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the new rows."""
    max_steps: int | None = Field(None, ge=1)
    """Exact number of updates; overrides `epochs`."""
    max_train_tokens: int | None = Field(None, ge=1)
    """The run ends with the update that reaches this many tokens, if that comes first. The
    schedule is that of the shorter run."""
    max_minutes: float | None = Field(None, gt=0)
    """The run ends after this much training time, if that comes first, with a checkpoint and a
    finished adapter. The schedule is that of the planned run: the rate may still be high."""
    optimizer: Annotated[Optimizer, OneOf(OPTIMIZERS)] = AdamW()
    """How gradients become changes of the weights: `adamw`, `adamw_8bit`, `adafactor`,
    `adam_mini`, `muon`, `sgd`; for all weights with little memory `galore`, `apollo`, `badam`."""
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    """Peak rate. Higher learns more in a round and forgets more of the earlier ones."""
    loraplus_ratio: float | None = Field(None, gt=0)
    """LoRA+: how many times faster LoRA's B matrices learn than the rest; 16 is usual. Empty: all
    learn alike."""
    schedule: Annotated[Schedule, OneOf(SCHEDULES)] = Cosine()
    """Course of the learning rate after the warm-up: `cosine`, `linear`, `constant`, `wsd`,
    `cosine_with_restarts`, `polynomial`, `inverse_sqrt`."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Fraction of the steps in which the rate rises from 0 to its peak."""
    warmup_steps: int | None = Field(None, ge=0)
    """The same in steps; overrides `warmup_fraction`."""
    final_lr_fraction: float = Field(0.1, ge=0, le=1)
    """The rate at the last step, as a fraction of the peak."""
    schedule_ends: Literal["within", "after"] = "within"
    """Where warm-up and schedule begin and end. `within`: the first update has a rate above 0, and
    the last one the final rate; `after`: as Transformers' Trainer has it, where the first update of
    a warm-up has the rate 0, and an update after the last would have the final rate."""
    shuffle: bool = True
    """Teach the new rows in a random order, another one in each pass. Off: as they lie in their
    files, which suits rows that build on each other."""
    weight_decay: float = Field(0.0, ge=0, lt=1)
    """Pull of the trained matrices towards zero; norms and biases are never pulled."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients longer than this are scaled down to it. 0: never."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Compute activations again in the backward pass instead of keeping them: less memory, about a
    third slower, the same gradients. `auto`: only where they would not fit."""
    share_prefixes: bool | Literal["auto"] = "auto"
    """Read what the rows of a micro-batch begin with in common once: the same gradients, less to
    compute where rows share an instruction or pairs a prompt. `auto`: on CPUs, where nothing else
    needs whole rows (`compile`, `neftune_alpha`, dropout, recomputed activations)."""
    quick_layers: bool | Literal["auto"] = "auto"
    """Compute decoder layers of the Llama kind in few operations and read rows end to end, without
    padding: the same gradients, faster, with less memory. `auto`: on CPUs, where nothing else needs
    the layers as they are (`compile`, `liger_kernel`, `neftune_alpha`, dropout, DoRA)."""
    trunk_cache: bool | Literal["auto"] = "auto"
    """Compute the lowest layers, where they are frozen, once for each row and keep their states on
    disk: the same losses, and rows that are read again skip those layers. `auto`: where rows are
    read again and `trunk_cache_gb` holds them all. It needs `quick_layers`, and no adapter in those
    layers that earlier rounds taught."""
    trunk_cache_gb: float = Field(4.0, ge=0)
    """Most GB on disk that `trunk_cache` takes; states used longest ago leave first. Higher keeps
    those of more rows for later rounds. A token takes two or four bytes for each unit of the
    model's width."""
    compile: bool = False
    """Compile each decoder layer before training: minutes at the start, faster steps after it.
    Worth it in long runs."""
    liger_kernel: bool = False
    """Compute norms, positions and gated layers by the library Liger. Needs a GPU; saves memory."""
    neftune_alpha: float | None = Field(None, gt=0)
    """NEFTune: noise on the embeddings while training; 5 to 15 is usual. Higher keeps the model
    from learning rows by heart and its answers grow longer. Empty: none."""
    weighting: Literal["token", "row", "all_tokens"] = "token"
    """What counts the same in the loss. `token`: each token of the new rows, and each of a source
    of old ones, whose shares hold whatever the lengths; `row`: each row instead, so that long
    answers do not drown short ones; `all_tokens`: each token of an update, new or old, so that
    sources share the loss by length (those with a `weight` of their own keep it)."""
    eval_steps: Annotated[Every | None, BeforeValidator(_often)] = None
    """Updates between two measurements of the loss on held-out rows; below 1 a share of the run,
    `epoch` once in each. Empty: none is measured."""
    keep_best: bool = False
    """Put the weights with the lowest held-out loss back at the end. It needs `eval_steps`."""
    early_stopping_steps: int | None = Field(None, ge=1)
    """The run ends when the held-out loss was not better in this many measurements in a row, and
    the best weights are put back. It needs `eval_steps`."""
    spike_factor: float = Field(5.0, gt=1)
    """A gradient norm above this many times the median of the last 50 is shown as a spike. Higher
    shows fewer."""
    try_longest_first: bool | None = None
    """Compute the longest micro-batch once before the first update, so that running out of memory
    shows at once. Results are the same. Empty: on a GPU, and on a CPU where memory is short."""
    report_to: list[Annotated[Reporter, OneOf(REPORTERS)]] = [TensorBoard()]
    """Where the numbers of every update go besides the run's own files: `tensorboard`, `wandb`,
    `mlflow`. An empty list: nowhere."""
    checkpoint_steps: Annotated[Every, BeforeValidator(_often)] = 50
    """Updates between two checkpoints; below 1 a share of the run, `epoch` at the end of each.
    Lower loses less in a crash and writes more."""
    checkpoints_kept: Annotated[int, Field(ge=2)] | Literal["all"] = 2
    """How many of the newest checkpoints stay, at least 2: the second saves the day if the first
    is damaged. `all`: none is removed."""
    loadable_checkpoints: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """Beside so many of the newest checkpoints, or `all`, a folder `checkpoint-N` is kept that PEFT
    and Transformers read, without a workspace. 0: none."""
    checkpoint_minutes: float | None = Field(None, gt=0)
    """Minutes after which a checkpoint is due whatever `checkpoint_steps` says. On a machine that
    may vanish without a warning this is the most that is lost."""
    checkpoint_mirror: str = ""
    """A folder, or an address as s3://bucket/folder, gs:// or oss:// (with fsspec's package for
    it), where checkpoints are copied to beside the training; a machine with an empty disk goes on
    from there. Empty: nowhere."""
    preemption_notice: str = ""
    """What tells that this machine is about to be taken away: `aws`, `gcp` or `azure` ask the
    cloud's own address, else a file that appears or an http address that answers. A checkpoint is
    saved then, and the program leaves with code 75; started again, it goes on."""
    parallel: Annotated[Parallel, OneOf(PARALLELS)] = Ddp()
    """How several processes share a run. `ddp`: each holds the whole model; `fsdp`: each holds a
    part of every weight, gradient and optimizer state, so N of them need 1/N of that memory."""
    process_timeout: float = Field(86400.0, gt=0)
    """Seconds that one of several processes waits for another, as while the first one evaluates."""
    seed: int = Field(0, ge=0)
    """Same data, settings and seed give the same curve."""

    @field_validator("report_to", mode="before")
    @classmethod
    def _accept_one_name(cls, value: Any) -> Any:
        """`report_to: none` and `report_to: wandb` are usual too."""
        return ([] if value == "none" else [value]) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_stop_early(self) -> Self:
        if self.early_stopping_steps is not None and self.eval_steps is None:
            raise ValueError(STOPS_UNMEASURED())
        return self

    @model_validator(mode="after")
    def _can_keep_best(self) -> Self:
        if self.keep_best and self.eval_steps is None:
            raise ValueError(BEST_UNMEASURED())
        return self

    @property
    def restores_best(self) -> bool:
        """Whether the weights with the lowest held-out loss are put back at the end."""
        return self.keep_best or self.early_stopping_steps is not None

    @model_validator(mode="after")
    def _can_pack(self) -> Self:
        if self.packing and self.objective.unit == "row":
            raise ValueError(WHOLE_ROWS_PACKED(objective=OBJECTIVES.name_of(self.objective)))
        return self

    @model_validator(mode="after")
    def _can_share(self) -> Self:
        if self.share_prefixes is True and (needs := self._needs_whole_rows()):
            raise ValueError(WHOLE_ROWS_SHARED(other=needs[0]))
        return self

    def shares_prefixes(self, device: str) -> bool:
        """Whether rows that begin alike are to be read together on a type of device."""
        if self.parallel.reads_plainly:
            return False
        if self.share_prefixes != "auto":
            return self.share_prefixes
        return device == "cpu" and not self._needs_whole_rows()

    def uses_quick_layers(self, device: str) -> bool:
        """Whether layers of a known kind are computed in few operations on a type of device."""
        if self.quick_layers != "auto":
            return self.quick_layers
        return device == "cpu" and not any(getattr(self, name) for name in AS_THEY_ARE)

    def trunk_obstacles(self) -> list[str]:
        """Settings for which the states of frozen layers cannot be kept."""
        found = [name for name in AS_THEY_ARE if getattr(self, name)]
        found += ["quick_layers: false"] if self.quick_layers is False else []
        found += [f"parallel: {PARALLELS.name_of(self.parallel)}"] if self.parallel.shards else []
        found += ["parallel.context"] if self.parallel.context > 1 else []
        return [f"training.{each}" for each in found]

    def _needs_whole_rows(self) -> list[str]:
        return [name for name in WHOLE_ROWS if getattr(self, name) not in (None, False, "auto")]

    def check(self) -> None:
        """Refuse early what this machine cannot do, before a model is loaded.

        Raises:
            ConfigError: a library or a device is missing.
        """
        from llama_factory.model.acceleration import require_compiler, require_liger

        if self.compile:
            require_compiler()
        if self.liger_kernel:
            require_liger()
        require_mirror(self.checkpoint_mirror)
        self.optimizer.check()
        for reporter in self.report_to:
            reporter.check()


AS_THEY_ARE = ("compile", "liger_kernel", "neftune_alpha")
"""Settings that need the layers, or the embeddings, as they are."""
WHOLE_ROWS = ("compile", "gradient_checkpointing", "neftune_alpha")
"""Settings that work on whole rows only."""
WITHOUT_EFFECT = {
    "checkpoint_minutes",
    "checkpoint_mirror",
    "checkpoint_steps",
    "checkpoints_kept",
    "gradient_checkpointing",
    "loadable_checkpoints",
    "max_minutes",
    "parallel",
    "preemption_notice",
    "process_timeout",
    "report_to",
    "spike_factor",
    "try_longest_first",
}
"""Settings that change no update: a run may go on with other values of them."""
