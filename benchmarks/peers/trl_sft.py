"""The training job of train_speed.py in TRL's SFTTrainer. Runs in TRL's own environment.

Usage: trl_sft.py JOB.json, prints one JSON line last.
"""

import json
import resource
import sys
import time
from pathlib import Path

started = time.perf_counter()

from datasets import Dataset  # noqa: E402 - the imports are part of what is timed
from peft import LoraConfig  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402


class Clock(TrainerCallback):
    """Time and loss of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN201
        """Called by the trainer after every update."""
        self.ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ANN001, ANN003, ANN201
        """Called by the trainer with the numbers of every update."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def main() -> None:
    """Run the job and print its numbers."""
    job = json.loads(Path(sys.argv[1]).read_text())
    rows = [
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in job["rows"]
    ]
    best = {"gradient_checkpointing": False} if job["best"] else {}
    config = SFTConfig(
        output_dir=job["output"],
        per_device_train_batch_size=job["batch_size"],
        max_steps=job["steps"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        max_length=job["max_tokens"],
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        data_seed=0,
        bf16=job["peer_dtype"] == "bfloat16",
        **best,
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=job["model"],
        args=config,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            r=8, lora_alpha=16, target_modules=job["targets"], task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer._get_train_sampler = lambda *_: range(len(rows))  # the rows in their order
    trainer.train()
    spans = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    print(
        json.dumps(
            {
                "step_seconds": spans,
                "first_step_seconds": clock.ends[0] - started,
                "losses": clock.losses,
                "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
