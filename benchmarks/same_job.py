"""The same settings file in LLaMA-Factory and here: how far the losses of every update differ.

Usage: same_job.py DATA [--peer PYTHON] [--jobs NAME ...] [--quick] [--out FILE], where DATA is
`data/` of a checkout of LLaMA-Factory, and PYTHON that of an environment with it (else one is
made). Each job is one YAML, which both programs read unchanged: ten updates in float32 of a tiny
random model with the tokenizer of SmolLM2, rows in the file's order. What would be drawn at random
is drawn once before: LoRA starts from a folder that both read, with a value head beside it. Where
the model at the start is a reference, that LoRA changes nothing yet: their reference is the base,
ours the model as the run begins. Pairs, judged answers and texts fit one row, since longer ones are
cut by another rule here (texts are divided), and packed texts see each other there; so do packed
rows without `neat_packing`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
import common

PEER_PROGRAM = Path(__file__).parent / "peers/llamafactory_jobs.py"
UPDATES = 10
MARKS = ("<｜User｜>", "<｜Assistant｜>")
"""Of the template; where they are no single tokens, theirs are cut from the text before them."""
TOLERANCE = 1e-4
WIDTH = 64
Keys = dict[str, Any]

COMMON: Keys = {
    "do_train": True,
    "template": "deepseek3",
    "finetuning_type": "lora",
    "lora_target": "all",
    "cutoff_len": 256,
    "max_samples": 60,
    "disable_shuffling": True,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2.0e-3,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.2,
    "weight_decay": 0.01,
    "max_steps": UPDATES,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "overwrite_output_dir": True,
}
"""What all jobs have in common, as people write it."""
SHORT, MOST_CHARACTERS = ("c4_demo", "dpo_en_demo", "kto_en_demo"), 800
"""Sets of which there is one more with the rows of at most so many characters, as `NAME_short`."""
SHORT_PAIRS: Keys = {"dataset": "dpo_en_demo_short", "max_samples": 12}
"""A multiple of the rows of an update: the last one of an epoch is smaller there."""
SFT: Keys = {"stage": "sft", "dataset": "identity,alpaca_en_demo"}
ASFT: Keys = SFT | {"finetuning_type": "full", "use_asft_loss": True, "asft_alpha": 0.1}
PT: Keys = {"stage": "pt", "dataset": "c4_demo_short", "packing": False}
"""Some of its texts are longer than a row, and cut."""
LONG_PAIRS: Keys = {"dataset": "dpo_en_demo", "cutoff_len": 64}
PAIRS: Keys = {"stage": "dpo", **SHORT_PAIRS, "pref_beta": 0.1}
JOBS: Mapping[str, Keys] = {
    "sft": SFT,
    "sft, one micro-batch": SFT | {"gradient_accumulation_steps": 1},
    "sft, linear": SFT | {"lr_scheduler_type": "linear", "warmup_ratio": 0.0},
    "sft, packed": SFT | {"packing": True, "neat_packing": True},
    "sft, packed, without neat_packing": SFT | {"packing": True},
    "dft": SFT | {"use_dft_loss": True},
    "eaft": SFT | {"use_eaft_loss": True},
    "asft, full": ASFT | {"gradient_accumulation_steps": 1},
    "loraplus": SFT | {"loraplus_lr_ratio": 16.0},
    "pissa": SFT | {"pissa_init": True, "pissa_iter": -1},
    "freeze": SFT | {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    "full": SFT | {"finetuning_type": "full"},
    "pt": PT,
    "pt, divided alike": PT,
    "dpo": PAIRS,
    "dpo, long rows": PAIRS | LONG_PAIRS,
    "dpo, full, long rows": PAIRS | LONG_PAIRS | {"finetuning_type": "full"},
    "dpo, full": PAIRS | {"finetuning_type": "full"},
    "dpo, ipo": PAIRS | {"pref_loss": "ipo"},
    "dpo, with pref_ftx": PAIRS | {"pref_ftx": 0.5},
    "dpo, with pref_bco_weight": PAIRS | {"pref_bco_weight": 0.5, "gradient_accumulation_steps": 1},
    "orpo": PAIRS | {"pref_loss": "orpo"},
    "simpo": PAIRS | {"pref_loss": "simpo"},
    "kto": {"stage": "kto", "dataset": "kto_en_demo_short", "gradient_accumulation_steps": 1},
    "rm": {"stage": "rm", **SHORT_PAIRS},
}
"""Name -> the keys of its own."""
FROM_BASE = ("pissa", "freeze", "full", "asft, full", "dpo, full", "dpo, full, long rows")
"""Jobs that begin with the model alone."""
FROM_NOTHING = (
    "dpo",
    "dpo, long rows",
    "dpo, ipo",
    "dpo, with pref_ftx",
    "dpo, with pref_bco_weight",
    "kto",
)
"""Jobs whose LoRA is zero at first."""
QUICK = ("sft", "dpo")


@dataclass(frozen=True)
class Compared:
    """One job in both programs.

    Attributes:
        job: its name.
        greatest: difference of the losses of an update.
        ours: the losses here.
        theirs: the losses there.
        problem: why there is nothing to compare.
    """

    job: str
    greatest: float | None
    ours: list[float]
    theirs: list[float]
    problem: str = ""


def main() -> None:
    """Run all jobs in both programs and show the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", type=Path, help="Python of an environment with LLaMA-Factory")
    parser.add_argument("--jobs", nargs="*", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--template", default=COMMON["template"])
    parser.add_argument("--quick", action="store_true", help="two jobs here only")
    parser.add_argument("--work", type=Path, help="kept; runs in it are not run again")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = list(QUICK) if args.quick else args.jobs
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        made = {"template": args.template, "dataset_dir": str(_sets(work / "data", args.data))}
        made |= {"model_name_or_path": str(_model(work / "model"))}
        whole = {name: COMMON | made | JOBS[name] | _start(name, work) for name in names}
        if not args.quick:
            _peer_runs(args.peer or common.llama_factory_python(), whole, work / "theirs")
        found = [_compared(name, keys, work, is_alone=args.quick) for name, keys in whole.items()]
    rows = [
        (each.job, each.greatest, _ends(each.ours), _ends(each.theirs), each.problem)
        for each in found
    ]
    columns = ("job", "greatest difference", "losses here", "losses there", "problem")
    common.print_table(f"Losses of {UPDATES} updates in both programs", columns, rows)
    common.write_results(args.out, {"settings": COMMON, "jobs": [asdict(each) for each in found]})


def _model(folder: Path) -> Path:
    """A random model of two layers with the tokenizer of SmolLM2, which has no template of its own.

    The named template is what both programs write then. A value head has no dropout, which would
    be drawn at random there.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llama_factory.model.source import resolve

    if folder.exists():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2"))
    tokenizer.chat_template = None
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    tokenizer.pad_token = "<|endoftext|>"  # where it is the end token, theirs never teaches that
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        summary_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _sets(folder: Path, data: Path) -> Path:
    """Their sets, and those of SHORT with their short rows."""
    if folder.exists():
        return folder
    shutil.copytree(data, folder)
    known = json.loads((folder / "dataset_info.json").read_text())
    for name in SHORT:
        text = (folder / known[name]["file_name"]).read_text()
        rows = json.loads(text) if text[0] == "[" else map(json.loads, text.splitlines())
        short = [row for row in rows if len(json.dumps(row)) <= MOST_CHARACTERS]
        if name.startswith("kto"):  # an answer like the one before is passed over here for KL
            pairs = zip([None, *short], short, strict=False)
            short = [row for before, row in pairs if before is None or _said(before) != _said(row)]
        known[f"{name}_short"] = known[name] | {"file_name": f"{name}_short.json"}
        (folder / f"{name}_short.json").write_text(json.dumps(short))
    (folder / "dataset_info.json").write_text(json.dumps(known))
    return folder


def _said(row: Keys) -> str:
    """The answer of a row of kto_en_demo."""
    return str(row["messages"][-1]["content"])


def _start(name: str, work: Path) -> Keys:
    """What a job begins with besides the model."""
    if name in FROM_BASE:
        return {}
    spread = 0.0 if name in FROM_NOTHING else 0.02
    folder = work / ("adapter" if spread else "zero-adapter")
    return {"adapter_name_or_path": str(_adapter(folder, work / "model", spread))}


def _adapter(folder: Path, model: Path, spread: float) -> Path:
    """A random LoRA of the model, and a value head.

    Args:
        folder: a new one.
        model: that it is for.
        spread: standard deviation of the matrices that usually begin as zero.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    if folder.exists():
        return folder
    targets = [*(f"{one}_proj" for one in "qkvo"), "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
    network = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, spread)
    network.save_pretrained(str(folder))
    head = {
        "v_head.summary.weight": torch.randn(1, WIDTH) / 8,
        "v_head.summary.bias": torch.zeros(1),
    }
    save_file(head, folder / "value_head.safetensors")
    return folder


def _written(keys: Keys, folder: Path) -> Path:
    """The settings file of a job, which is the same but for where it writes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(keys | {"output_dir": str(folder)}, sort_keys=False))
    return path


def _peer_runs(python: Path, jobs: Mapping[str, Keys], folder: Path) -> None:
    paths = [
        _written(keys, folder / _slug(name))
        for name, keys in jobs.items()
        if not _losses(folder / _slug(name))
    ]
    if not paths:
        return
    done = subprocess.run([python, PEER_PROGRAM, *paths], capture_output=True, text=True)
    (folder / "log").write_text(done.stdout + done.stderr)
    for number, line in enumerate(lines := done.stderr.splitlines()):
        if line.endswith("failed:"):
            print("\n".join(lines[number : number + 60]), file=sys.stderr)
    if done.returncode:
        sys.exit(done.stderr[-3000:])


def _compared(name: str, keys: Keys, work: Path, *, is_alone: bool) -> Compared:
    from llama_factory import run
    from llama_factory.core.errors import FactoryError
    from llama_factory.core.progress import SILENT

    folder = work / "ours" / _slug(name)
    try:
        if not _losses(folder):
            run.train(_written(keys, folder), ["model.dtype=float32"], SILENT)  # as there
    except FactoryError as error:
        return Compared(name, None, [], [], str(error))
    ours = _losses(folder)
    theirs = [] if is_alone else _losses(work / "theirs" / _slug(name))
    if len(ours) != len(theirs):
        problem = "" if is_alone else f"{len(ours)} updates here, {len(theirs)} there"
        return Compared(name, None, ours, theirs, problem)
    return Compared(name, max(abs(a - b) for a, b in zip(ours, theirs, strict=True)), ours, theirs)


def _losses(folder: Path) -> list[float]:
    """Of every update, in full, as a `trainer_state.json` has them."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return []
    history = json.loads(path.read_text())["log_history"]
    return [each["loss"] for each in history if "loss" in each]


def _ends(losses: Sequence[float]) -> str:
    return f"{losses[0]:.4f} ... {losses[-1]:.4f}" if losses else ""


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


if __name__ == "__main__":
    main()
