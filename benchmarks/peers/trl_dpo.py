"""The training job of dpo_speed.py in TRL's DPOTrainer. Runs in TRL's own environment.

Usage: trl_dpo.py JOB.json, prints one JSON line last.
"""

from trl import DPOConfig, DPOTrainer
from trl_job import read_job, settings, train

BEST = {"gradient_checkpointing": False}
VARIANTS = {
    "defaults": {},
    "best": BEST,
    "precomputed": BEST | {"precompute_ref_log_probs": True},
}

if __name__ == "__main__":
    job = read_job()
    config = DPOConfig(**settings(job), beta=job["beta"], **VARIANTS[job["variant"]])
    train(DPOTrainer, config, job["rows"], job)  # prompt, chosen, rejected: all text
