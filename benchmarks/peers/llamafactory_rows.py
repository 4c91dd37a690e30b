"""Sets of a `dataset_info.json` as LLaMA-Factory's converter reads them. Runs in its environment.

Usage: llamafactory_rows.py DATA OUTPUT NAME ...; writes OUTPUT/NAME.jsonl.
"""

import json
import sys
from pathlib import Path

from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.hparams import DataArguments, ModelArguments
from transformers import Seq2SeqTrainingArguments


def main() -> None:
    """Read every set and write its rows."""
    folder, output, *names = sys.argv[1:]
    Path(output).mkdir(parents=True, exist_ok=True)
    training = Seq2SeqTrainingArguments(output_dir=output, use_cpu=True, report_to="none")
    model = ModelArguments(model_name_or_path=output)
    data = DataArguments(dataset_dir=folder)
    for name, described in zip(names, get_dataset_list(names, folder), strict=True):
        rows = _load_single_dataset(described, model, data, training)
        with (Path(output) / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
