"""What TRL's trainers share in the benchmarks' training jobs. Runs in TRL's own environment."""

import json
import sys
from pathlib import Path

from clock import Clock, counting
from datasets import Dataset
from peft import LoraConfig


def read_job() -> dict:
    """The job that the command names."""
    return json.loads(Path(sys.argv[1]).read_text())


def settings(job: dict) -> dict:
    """The job in TRL's settings."""
    return {
        "output_dir": job["output"],
        "per_device_train_batch_size": job["batch_size"],
        "max_steps": job["steps"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_length": job["max_tokens"],
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "bf16": job["dtype"] == "bfloat16",
    }


def train(trainer_class: type, settings: object, rows: list[dict], job: dict) -> None:
    """Train on the rows in their order, and print the job's numbers as one JSON line."""
    clock = Clock()
    trainer = trainer_class(
        model=job["model"],
        args=settings,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            r=8, lora_alpha=16, target_modules=job["targets"], task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer._get_train_sampler = lambda *_: range(len(rows))
    trainer_class.compute_loss = counting(trainer_class.compute_loss, clock)
    trainer.train()
    print(json.dumps(clock.to_json()))
