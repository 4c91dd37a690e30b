"""One training job for all programs: its rows, our run of it, a peer's run of it, what came out."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

PEER_PROGRAMS = Path(__file__).parent / "peers"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH_SIZE, MAX_TOKENS, LEARNING_RATE = 4, 512, 2e-4
LOOKS_PER_SECOND = 100
Job = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One run of one program. Times are in seconds since the program was started.

    Attributes:
        first_begin: when the first update began.
        ends: when each update ended, and the next could begin.
        losses: of every update.
        tokens: of every update, without padding; empty where the program does not tell.
        padded: the same with padding.
        peak_memory_gb: most memory that the process held (VmHWM).
    """

    first_begin: float
    ends: list[float]
    losses: list[float]
    tokens: list[int]
    padded: list[int]
    peak_memory_gb: float

    @property
    def seconds(self) -> float:
        """All updates but the first."""
        return self.ends[-1] - self.ends[0]


class Writer:
    """Conversations as the model's own template writes them, which is what every program gets."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        from llama_factory.model.source import resolve

        self.folder = resolve("smollm2")
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    def prompt(self, turns: Sequence[dict[str, Any]]) -> str:
        """What is asked, up to where the answer begins."""
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return str(text)

    def answer(self, text: str) -> str:
        """An answer up to its end token."""
        return f"{text}{self.tokenizer.eos_token}"

    def num_tokens(self, text: str) -> int:
        """Length of a text."""
        return len(self.tokenizer(text)["input_ids"])


def examples_of(data: Path) -> Iterator[Any]:
    """The rows of a file that are conversations and end with an answer."""
    from llama_factory.core.types import Example
    from llama_factory.data.reading import read_examples

    for example in read_examples(data):
        if isinstance(example, Example) and example.messages[-1].role == "assistant":
            yield example


def new_job(writer: Writer, steps: int, dtype: str = "auto") -> Job:
    """What all jobs have in common, in a number format as `model.dtype` has it."""
    from llama_factory.model.dtypes import choose

    return {
        "model": str(writer.folder),
        # without hardware for it bfloat16 would be no comparison
        "dtype": str(choose(dtype).dtype).removeprefix("torch."),
        "steps": steps,
        "batch_size": BATCH_SIZE,
        "max_tokens": MAX_TOKENS,
        "learning_rate": LEARNING_RATE,
        "targets": TARGETS,
    }


def our_run(job: Job, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Measured:
    """The job by the command that users give.

    Args:
        job: steps and batch size.
        settings: sections of the settings file besides what every job has.
        rows: in the order in which they are to be taught.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        metrics = output / "metrics.jsonl"
        path = write_settings(Path(folder), job, settings, rows)
        arrivals: list[float] = []

        def look() -> None:
            done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            arrivals.extend([time.monotonic()] * (done - len(arrivals)))

        command = [sys.executable, "-m", "llama_factory", "train", str(path)]
        ran = run(command, look)
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    ends = [arrival - ran.started for arrival in arrivals]
    first = lines[0]
    return Measured(
        first_begin=ends[0] - job["batch_size"] / first["samples_per_second"],
        ends=ends,
        losses=[line["loss"] for line in lines],
        tokens=[],
        padded=[],
        peak_memory_gb=ran.peak_memory_gb,
    )


def write_settings(
    folder: Path, job: Job, settings: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> Path:
    """A settings file for `llama-factory train`, and its rows beside it."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in as_shuffled(rows, job)))
    whole = {
        "model": {
            "base_model": job["model"],
            "dtype": job["dtype"],
            "adapter": {"type": "lora", "rank": 8, "alpha": 16},
        },
        "data": {
            "train_path": str(data),
            "cleaning": [],
            "held_out_fraction": 0,
            "max_tokens": job["max_tokens"],
        },
        "training": {
            "batch_size": job["batch_size"],
            "max_steps": job["steps"],
            "learning_rate": job["learning_rate"],
            "schedule": "constant",
            "warmup_steps": 0,
            **settings,
        },
        "strategies": [],
        "output_dir": str(folder / "output"),
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(whole))  # JSON is YAML
    return path


def as_shuffled(rows: Sequence[dict[str, Any]], job: Job) -> list[dict[str, Any]]:
    """The rows so placed that the run's shuffle brings them into the order they have here."""
    from llama_factory.training.items import NEW
    from llama_factory.training.plan import plan_steps

    plan = plan_steps({NEW: len(rows)}, {}, job["batch_size"], job["steps"], 0)
    places = [ref.index for step in plan for ref in step]
    placed: list[dict[str, Any]] = [{}] * len(rows)
    for row, place in zip(rows, places, strict=True):
        placed[place] = row
    return placed


def peer_run(python: Path, program: str, job: Job) -> Measured:
    """The job in a peer's program, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job | {"output": folder}))
        ran = run([str(python), str(PEER_PROGRAMS / program), str(path)])
    told = json.loads(ran.printed.strip().splitlines()[-1])
    return Measured(
        first_begin=told["begins"][0] - ran.started,
        ends=[end - ran.started for end in told["ends"]],
        losses=told["losses"],
        tokens=told["tokens"],
        padded=told["padded"],
        peak_memory_gb=ran.peak_memory_gb,
    )


@dataclass(frozen=True)
class Ran:
    """A process that ended well."""

    printed: str
    started: float
    peak_memory_gb: float


def run(command: Sequence[str], look: Callable[[], None] = lambda: None) -> Ran:
    """Run a program and watch it.

    Args:
        command: program and arguments.
        look: called all the time while it runs, and once after.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        started, peak = time.monotonic(), 0.0
        process = subprocess.Popen(command, stdout=printed, stderr=said, env=environment)
        while process.poll() is None:
            peak = max(peak, common.peak_memory_gb(process.pid))
            look()
            time.sleep(1 / LOOKS_PER_SECOND)
        look()
        printed.seek(0)
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read()[-3000:]}")
        return Ran(printed.read(), started, peak)


def greatest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The greatest difference of two courses of the loss, as a share of the second."""
    pairs = zip(one, other, strict=True)
    return max(abs(a - b) / max(abs(b), 1e-9) for a, b in pairs)


def percent(value: float | None, digits: int = 0) -> str:
    """A share, or a dash where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"
