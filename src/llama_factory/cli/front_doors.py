"""What the scripts at the root of the project and under `src` call: commands under other names."""

import argparse
import sys
from collections.abc import Sequence

import typer

from llama_factory.cli import app
from llama_factory.cli.jobs import export


def train() -> None:
    """`train.py` and `src/train_bash.py`: `llama-factory train` with the same words."""
    sys.argv[1:1] = ["train"]
    app.main()


def export_model() -> None:
    """`src/export_model.py`: `llama-factory export`, with LLaMA-Factory's flags."""
    said = _read(_exporting())
    command = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    command.command()(export)
    app.guarded(lambda: command(_exported(said)))


def api_demo() -> None:
    """`src/api_demo.py`: answer over HTTP with a base model and, if given, an adapter."""
    from llama_factory import run
    from llama_factory.jobs.model_reference import ModelReference

    said = _read(_serving())
    model = ModelReference(said.adapter, base=said.model) if said.adapter else said.model
    changes = [f"{name}={value}" for name, value in _settings(said) if value is not None]

    def answer() -> None:
        run.serve(model, changes, lambda text: print(text, flush=True))

    app.guarded(answer)


def _exporting() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Merge an adapter into its base model.")
    parser.add_argument(
        "--model_name_or_path",
        dest="model",
        required=True,
        help="the adapter's folder; with --adapter_name_or_path the base model",
    )
    parser.add_argument("--output_dir", "--export_dir", dest="output", required=True)
    parser.add_argument("--adapter_name_or_path", "--lora_path", dest="adapter")
    parser.add_argument("--export_size", type=int, metavar="GB", help="largest weight file")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16")
    parser.add_argument("--template", help="for tokenizers without a chat template")
    return parser


def _serving() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Answer OpenAI-style requests.")
    parser.add_argument("--model_name_or_path", dest="model", required=True, help="base model")
    parser.add_argument("--lora_path", "--adapter_name_or_path", dest="adapter")
    parser.add_argument("--port", type=int, help="8000 unless API_PORT is set; 0: any free one")
    parser.add_argument("--server_name", "--host", dest="host", help="0.0.0.0: the network")
    parser.add_argument("--template", help="for tokenizers without a chat template")
    return parser


def _read(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags; those of LLaMA-Factory that change nothing here are accepted."""
    for name in ("finetuning_type", "export_device", "export_legacy_format", "infer_backend"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser.parse_args()


def _settings(said: argparse.Namespace) -> Sequence[tuple[str, object]]:
    return (
        ("serving.port", said.port),
        ("serving.host", said.host),
        ("model.template", said.template),
    )


def _exported(said: argparse.Namespace) -> list[str]:
    """The words of `llama-factory export`."""
    chosen = {
        "--base": said.model if said.adapter else None,
        "--dtype": said.dtype,
        "--set": f"model.template={said.template}" if said.template else None,
        "--shard-size": f"{said.export_size}GB" if said.export_size else None,
    }
    options = [word for name, value in chosen.items() if value for word in (name, value)]
    return [said.adapter or said.model, said.output, *options]
