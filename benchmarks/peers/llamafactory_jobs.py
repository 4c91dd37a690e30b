"""Settings files, one after the other, in LLaMA-Factory's own trainer. Runs in its environment.

Usage: llamafactory_jobs.py FILE.yaml ...; the losses of every update lie in each file's output_dir.
"""

import sys
import traceback
from pathlib import Path

import yaml
from llamafactory.train.tuner import run_exp


def main() -> None:
    """Run all files; one that fails is told and the others go on."""
    for name in sys.argv[1:]:
        try:
            run_exp(yaml.safe_load(Path(name).read_text()))
        except Exception:  # noqa: BLE001 - whatever it is, the others are to be run
            print(f"{name} failed:", file=sys.stderr)
            traceback.print_exc()


if __name__ == "__main__":
    main()
