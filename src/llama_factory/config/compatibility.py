"""The guide to LLaMA-Factory's keys, generated from the table: docs/compat.md.

Write it anew with `python -m llama_factory.config.compatibility > docs/compat.md`.
"""

import sys
from collections.abc import Iterator

from llama_factory.config import schema
from llama_factory.config.dialects.keys import DEFAULTS, GROUPS
from llama_factory.config.dialects.values import Key
from llama_factory.model.chat.templates import names

HEAD = """\
# LLaMA-Factory's settings and commands

`llama-factory train FILE` reads LLaMA-Factory's flat YAML as it is; a file with sections (`model:`,
`training:` ...) is read as in [settings.md](settings.md). Changes come after the file, in either
spelling, and flags alone will do:

```
llama-factory train sft.yaml lora_rank=16 --learning_rate 5e-5
llama-factory train sft.yaml training.max_minutes=30 --set data.cleaning=[unicode,near_duplicates]
llama-factory train --model_name_or_path smollm2 --data_path faq.jsonl --do_train --max_steps 100
llama-factory train sft.yaml --explain
llama-factory train sft.yaml --estimate
```

`--explain` prints the native settings that come out, each with the line, flag or default it comes
from, as a file that can be used instead; `--estimate` the memory and time that the run would take.
Unknown keys name the nearest one; keys that are known and not supported are errors that say what to
do; all problems are reported at once, with their lines.

Where a key is not given, LLaMA-Factory's own default holds ({defaults}). The rate falls to zero at
the end, rows are taught as they are (no cleaning but exact copies), and nothing is replayed.

How files and adapters are taken over: [from-llama-factory.md](from-llama-factory.md).

## Commands

`llamafactory-cli` and `lmf` are further names of `llama-factory`.

| command | takes |
|---|---|
| `train`, `export`, `chat`, `api` | a YAML, `key=value`, `--flags`; most a workspace too |
| `webui`, `webchat` | a workspace, or a folder with some: the page |
| `eval` | the same; `task` mmlu, cmmlu or ceval, by lm-eval where the data are here |
| `env`, `version`, `help` | nothing |

## Chat templates

`template` may be any of {num_templates} names, LLaMA-Factory's among them. Where the tokenizer has
a template of its own, that is used, and a difference to the named one is said with the first token
that differs; where it has none, the family's format is written as its model card shows it. Names
that end with `_nothink` are formats without thoughts, and set `enable_thinking: false` for
templates that know it. `default_system` is the system prompt of rows that have none.

## Front doors

| command | does |
|---|---|
| `python train.py --config FILE --output_dir FOLDER` | `llama-factory train FILE` |
| `python src/train_bash.py --model_name_or_path NAME ...` | `llama-factory train`, all in flags |
| `python src/export_model.py --model_name_or_path ADAPTER --output_dir FOLDER` | \
`llama-factory export ADAPTER FOLDER` |
| `python src/api_demo.py --model_name_or_path BASE --lora_path FOLDER --port 8000` | \
the API for one adapter, or for an exported model |

## Environment

| variable | meaning here |
|---|---|
| `API_HOST`, `API_PORT` | `serving.host`, `serving.port`; before the file's, after flags' |
| `API_MODEL_NAME`, `MAX_CONCURRENT` | `serving.model_name`, `serving.max_running`; with `api` \
any name of a model is answered |
| `API_KEY` | what clients of the API must send |
| `USE_MODELSCOPE_HUB` | models come from ModelScope, and sets of rows that lie there too |
| `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` | as in Hugging Face's libraries |
| `LLAMA_FACTORY_CACHE` | folder of our caches |
| `GRADIO_SERVER_NAME`, `GRADIO_SERVER_PORT` | where the page listens, said with a note |
| `FORCE_TORCHRUN`, `NNODES`, `NODE_RANK`, `NPROC_PER_NODE`, `MASTER_ADDR`, `MASTER_PORT` | \
as there: `train` runs through torchrun in that many processes, one for each GPU by default |
| `ALLOW_EXTRA_ARGS` | keys that nobody knows are told, and are no errors |
| `USE_RAY` | `train` runs in the processes of a Ray cluster, as with `--on ray` |

## Keys

"Ignored" keys are right as they stand and need nothing; where only some values are listed, others
are refused with the advice given.
"""


def guide() -> str:
    """The whole document as Markdown."""
    defaults = ", ".join(f"`{name}: {value}`" for name, value in DEFAULTS.items())
    head = HEAD.replace("{defaults}", defaults).replace("{num_templates}", str(len(names())))
    return "\n".join([head, *_groups()]) + "\n"


def _groups() -> Iterator[str]:
    for title, keys in GROUPS.items():
        rows = [f"| `{name}` | {_becomes(key)} | {key.about} |" for name, key in keys.items()]
        lines = [f"### {title}", "", "| key | becomes | remarks |", "|---|---|---|", *rows]
        yield "\n".join(lines) + "\n"


def _becomes(key: Key) -> str:
    if key.kind == "ignored":
        return "ignored"
    if key.kind == "noted":
        return "accepted, with a note"
    if key.kind == "limited":
        return "only " + ", ".join(f"`{_yaml(value)}`" for value in key.off)
    paths = key.target.split(", ")
    if key.target and not all(map(schema.is_anywhere, paths)):
        return "not there yet"
    return ", ".join(f"`{path}`" for path in paths) if key.target else "by itself"


def _yaml(value: object) -> str:
    return {"None": "empty", "True": "true", "False": "false"}.get(str(value), str(value))


if __name__ == "__main__":
    sys.stdout.write(guide())
