"""The training job of train_speed.py in TRL's SFTTrainer. Runs in TRL's own environment.

Usage: trl_sft.py JOB.json, prints one JSON line last.
"""

from trl import SFTConfig, SFTTrainer
from trl_job import read_job, settings, train

VARIANTS = {"defaults": {}, "best": {"gradient_checkpointing": False}}

if __name__ == "__main__":
    job = read_job()
    # the rows are text as the model's own template writes it: a conversation would get a line
    # break after its end token, and train it
    rows = [{"prompt": row["prompt"], "completion": row["answer"]} for row in job["rows"]]
    train(SFTTrainer, SFTConfig(**settings(job), **VARIANTS[job["variant"]]), rows, job)
