"""Settings of the data layer."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import OneOf, Settings
from llama_factory.data.cleaning import CLEANERS, RowStep, Step
from llama_factory.data.cleaning.private_data import PrivateData

DEFAULT_STEPS = (
    "unicode",
    "empty",
    "length",
    "repetition",
    "private_data",
    "contamination",
    "conflicts",
    "near_duplicates",
)


ROWS_AFTER_SETS = kind_of_sentence(
    "settings.rows_after_sets",
    "'{step}' looks at single rows and must come before '{before}', which compares them.",
)


class MixSettings(Settings):
    """How the sets of rows are mixed."""

    strategy: Literal["concat", "interleave_under", "interleave_over"] = "concat"
    """concat takes every row; interleave_under stops when the first set is used up; and
    interleave_over goes on until the last one is, repeating the others."""
    shares: dict[str, float] = {}
    """Fraction of each group in an interleaved mix. Empty: all alike."""
    balance: Literal["none", "under", "over"] = "none"
    """Give all classes as many rows as the smallest (under) or, by repeating, the largest has."""
    balance_by: Literal["group", "answer"] = "answer"
    """What a class is, where `balance` is on: a group, or (for labels) an answer in its group."""
    max_samples: int | None = Field(None, ge=1)
    """Most rows taken of each set. Lower is faster and teaches less."""


class DataSettings(Settings):
    """Which rows are taught and which are kept back to test."""

    train_path: Path | None = None
    """File or folder to train on. A workspace takes its inbox instead."""
    eval_path: Path | None = None
    """File or folder of rows that are only tested. Empty: a fraction of the training rows."""
    dataset: list[str] = []
    """Named sets to train on: from `dataset_info.json` in `dataset_dir`, or well-known ones."""
    eval_dataset: list[str] = []
    """Named sets that are only tested."""
    dataset_dir: Path = Path("data")
    """Folder of `dataset_info.json` and of the files that it names."""
    encoding: str | None = None
    """Encoding of text files that are not UTF-8, such as gb18030 or latin-1."""
    feedback: Literal["reviewed", "all", "none"] = "reviewed"
    """What users said of answers (`POST /v1/feedback`) and rounds take: what a person accepted,
    everything that nobody rejected, or nothing. `all` lets every caller teach the model."""
    held_out_fraction: float = Field(0.1, ge=0, le=0.5)
    """Fraction of the rows kept back to test, chosen by content, where no `NAME.test.jsonl` lies
    beside `NAME.jsonl`. Higher measures better and teaches less."""
    held_out_rows: int | None = Field(None, ge=1)
    """About how many rows are kept back instead; at most half of them. Empty: the fraction says."""
    teach_tests: bool = False
    """Teach rows also where the same question is tested, as where a set is named both to train and
    to test. Scores of them tell what was learned by heart, not what can be answered."""
    held_out_by: Literal["group", "answer"] = "group"
    """What gives up that fraction: every group, or every answer (label) in it."""
    max_tokens: int = Field(1024, ge=16)
    """Longest row in tokens. Longer conversations lose their oldest exchanges, then the end of the
    last answer. Higher needs more memory."""
    tokenized_path: Path | None = None
    """A folder of rows as tokens, for runs without a workspace: where there is none they are
    prepared, written there, and nothing is trained; else they are what is trained on."""
    long_prompts: Literal["drop", "cut"] = "drop"
    """What becomes of a row whose prompt fills all of `max_tokens`: it is left out, or the end of
    its question is `cut` out and the answer taught all the same."""
    long_pairs: Literal["turns", "share"] = "turns"
    """What becomes of a preference pair longer than `max_tokens`: it loses its oldest `turns`, then
    its answers' ends; or its prompt and its answers `share` the room by their lengths and are cut
    at their ends, the marks before the answer too, as LLaMA-Factory does."""
    long_texts: Literal["parts", "cut"] = "parts"
    """What becomes of a plain text longer than `max_tokens`, where texts are taught whole: it is
    taught in `parts`, or `cut` after the first."""
    train_on_prompt: bool = False
    """Teach every token of a row, not the answers alone. Plain text is taught whole in any case."""
    mask_history: bool = False
    """Teach the last answer of a conversation only; earlier ones are context."""
    enable_thinking: bool | None = None
    """For templates of reasoning models: `true` asks for a thought, `false` for an empty one.
    Empty leaves it to the template."""
    default_system: str | None = None
    """The system prompt of rows that have none, and of questions later on. Empty leaves it to the
    chat template."""
    tool_format: str | None = None
    """How tools are listed and called, as the family of this name does it, whatever the chat
    template's own way: `default`, `glm4`, `llama3`, `mistral`, `qwen` and others. The list goes
    into the system prompt. Empty leaves it to the chat template."""
    cleaning: list[Annotated[Step, OneOf(CLEANERS)]] = Field(
        default_factory=lambda: [CLEANERS.parse(name) for name in DEFAULT_STEPS]
    )
    """What is done to every row, in this order; steps that compare rows come last."""
    mix: MixSettings = MixSettings()
    """How many rows of each set are taught."""
    num_workers: int = Field(0, ge=0)
    """Processes that read and clean; 0 takes one a core."""
    keep_rows: bool = True
    """Keep in a version the rows that it was taught, and the files they came in. Where rows may not
    be kept, `false` leaves hashes of them: the very same rows are still not taught twice, but rows
    that are nearly the same, or that contradict them, are not found any more. Rows kept back to
    test stay, and so do `quarantine/` and `review/`, which people clear."""

    @field_validator("dataset", "eval_dataset", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """`a,b` is a list, as in LLaMA-Factory."""
        return [each.strip() for each in value.split(",")] if isinstance(value, str) else value

    @field_validator("cleaning")
    @classmethod
    def _rows_before_sets(cls, steps: list[Step]) -> list[Step]:
        names = [CLEANERS.name_of(step) for step in steps]
        for number, step in enumerate(steps[1:], 1):
            if isinstance(step, RowStep) and not isinstance(steps[number - 1], RowStep):
                raise ValueError(ROWS_AFTER_SETS(step=names[number], before=names[number - 1]))
        return steps


def private_data_of(settings: DataSettings) -> PrivateData:
    """What the steps take for private and how they mask it; all kinds where no step looks."""
    steps = (step for step in settings.cleaning if isinstance(step, PrivateData))
    return next(steps, PrivateData())
