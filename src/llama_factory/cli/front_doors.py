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
    flags = _read(_exporting())
    command = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    command.command()(export)
    app.guarded(lambda: command(_export_words(flags)))


def api_demo() -> None:
    """`src/api_demo.py`: answer over HTTP with a base model and, if given, an adapter."""
    from llama_factory import operate
    from llama_factory.jobs.model_reference import ModelReference

    flags = _read(_serving())
    model = ModelReference(flags.adapter, base=flags.model) if flags.adapter else flags.model
    changes = [f"{name}={value}" for name, value in _settings(flags) if value is not None]

    def answer() -> None:
        operate.serve(model, changes, lambda text: print(text, flush=True))

    app.guarded(answer)


def web_demo() -> None:
    """`src/web_demo.py`: the page of the current folder, or of the one that is named."""
    sys.argv[1:1] = ["web"]
    app.main()


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


def _settings(flags: argparse.Namespace) -> Sequence[tuple[str, object]]:
    return (
        ("serving.port", flags.port),
        ("serving.host", flags.host),
        ("model.template", flags.template),
    )


def _export_words(flags: argparse.Namespace) -> list[str]:
    """The words of `llama-factory export`."""
    chosen = {
        "--base": flags.model if flags.adapter else None,
        "--dtype": flags.dtype,
        "--set": f"model.template={flags.template}" if flags.template else None,
        "--shard-size": f"{flags.export_size}GB" if flags.export_size else None,
    }
    options = [word for name, value in chosen.items() if value for word in (name, value)]
    return [flags.adapter or flags.model, flags.output, *options]
