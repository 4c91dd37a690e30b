"""Settings files, one after the other, in LLaMA-Factory's own trainer. Runs in its environment.

Usage: llamafactory_jobs.py FILE.yaml ...; the losses of every update lie in each file's output_dir.
Where `divided` is in a file's name, the loss is divided by the tokens that are predicted.
"""

import sys
import traceback
from pathlib import Path

import yaml
from llamafactory.train.tuner import run_exp
from torch import Tensor, device
from transformers import Trainer


def num_predicted(_: Trainer, batches: list[dict[str, Tensor]], __: device) -> int:
    """Tokens that are predicted: of a text all but the first, which Transformers counts too."""
    return sum(int((each["labels"][..., 1:] != -100).sum()) for each in batches)


def main() -> None:
    """Run all files; one that fails is told and the others go on."""
    as_it_is = Trainer._get_num_items_in_batch
    for name in sys.argv[1:]:
        is_mended = "divided" in Path(name).stem
        Trainer._get_num_items_in_batch = num_predicted if is_mended else as_it_is
        try:
            run_exp(yaml.safe_load(Path(name).read_text()))
        except Exception:  # noqa: BLE001 - whatever it is, the others are to be run
            print(f"{name} failed:", file=sys.stderr)
            traceback.print_exc()


if __name__ == "__main__":
    main()
