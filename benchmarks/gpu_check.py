"""The engine on a GPU: number formats, a 7B-shaped model's FLOP utilisation, attention, a peer.

Models are random and as large as the table says: speed and memory do not depend on what they know.
Usage: gpu_check.py [--out FILE] [--steps 12] [--device cpu --tiny]. Without a GPU it says so.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import gpu_attention
import torch
from gpu_models import (
    EIGHT_LAYERS,
    RANK,
    SEVEN_B,
    TINY,
    Case,
    Measured,
    Shape,
    measure,
    peak_flops,
    product_flops,
    release,
)

NO_GPU = "gpu-check: torch sees no GPU here, so nothing was measured."
FORMATS = [
    Case("float32", dtype="float32"),
    Case("bfloat16", dtype="bfloat16"),
    Case("float16, scaled", dtype="float16"),
    Case("pure bfloat16", dtype="pure_bfloat16"),
]
WAYS = [
    Case("as it is"),
    Case("compiled layers", compiles=True),
    Case("recomputed activations", recomputes=True),
    Case("FlashAttention 2", attention="flash_attention_2"),
    Case("FlexAttention", attention="flex"),
    Case("Liger", uses_liger=True),
]
TINY_WAYS = [case for case in WAYS if not case.compiles]
"""Compiling takes longer than all the rest on a CPU; tests/model/test_acceleration.py does it."""
PACK = (300, 1100, 648, 2048)
Found = dict[Case, Measured | str]


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--no-peer", action="store_true", help="leave TRL out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return
    device = torch.device(options.device)
    small, large = (TINY, TINY) if options.tiny else (EIGHT_LAYERS, SEVEN_B)
    results = {
        "formats": formats(small, device, options.steps),
        "ways": ways(large, device, options.steps, TINY_WAYS if options.tiny else WAYS),
        "attention": attention(device, is_tiny=options.tiny),
        "peer": {} if options.no_peer else peer(large, device, options.steps),
    }
    common.write_results(options.out, results)


def run(cases: Sequence[Case], shape: Shape, device: torch.device, steps: int) -> Found:
    """Every case in turn."""
    found = {}
    for case in cases:
        print(f"{case.name} ...", file=sys.stderr)
        found[case] = measure(case, shape, device, steps)
    return found


def formats(shape: Shape, device: torch.device, steps: int) -> list[dict[str, Any]]:
    """The same job in each number format, beside float32."""
    found = run(FORMATS, shape, device, steps)
    exact = found[FORMATS[0]]
    rows = []
    for case, each in found.items():
        row: dict[str, Any] = {"format": case.name, **as_row(each)}
        if isinstance(each, Measured) and isinstance(exact, Measured):
            row["times_float32"] = each.tokens_per_second / exact.tokens_per_second
            row["loss_difference"] = greatest_difference(each.losses, exact.losses)
        rows.append(row)
    title = f"Number formats: LoRA r {RANK}, {described(shape)}"
    show(title, rows, "format", "times_float32", "loss_difference")
    return rows


def ways(
    shape: Shape, device: torch.device, steps: int, cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """Model FLOP utilisation in bfloat16, as the engine is and with each option."""
    peak, source = peak_flops(device)
    rows = []
    for case, each in run(cases, shape, device, steps).items():
        row: dict[str, Any] = {"way": case.name, **as_row(each)}
        if isinstance(each, Measured):
            row["mfu"] = each.tokens_per_second * each.flops_per_token / peak
            row["tflops"] = each.tokens_per_second * each.flops_per_token / 1e12
        rows.append(row)
    products = product_flops(device) / 1e12
    title = (
        f"bfloat16, LoRA r {RANK}, {described(shape)}; a share of {peak / 1e12:.3g} TFLOP/s "
        f"({source}); large products alone reach {products:.3g}"
    )
    show(title, rows, "way", "mfu", "tflops")
    return rows


def attention(device: torch.device, *, is_tiny: bool) -> list[dict[str, Any]]:
    """Programs for attention beside the formula."""
    release(device)
    lengths = [length // 64 for length in PACK] if is_tiny else list(PACK)
    heads, size = (2, 16) if is_tiny else (32, 128)
    found = gpu_attention.compare(lengths, heads=heads, size=size, device=device)
    rows = [asdict(kernel) | {"is_equal": kernel.is_equal} for kernel in found]
    show(f"Attention on rows of {lengths} tokens", rows, "name", "difference", "milliseconds")
    return rows


def peer(shape: Shape, device: torch.device, steps: int) -> dict[str, Any]:
    """The same model in TRL, where it is installed."""
    release(device)
    python = next(pythons_with_trl(), None)
    if python is None:
        print("\nTRL is not installed here, so it was not measured.")
        return {"why_not": "TRL is not installed"}
    config = shape.config()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        job = {
            "config": {name: getattr(config, name) for name in names},
            "device": device.type,
            "rank": RANK,
            "rows": shape.num_rows,
            "length": shape.length,
            "steps": steps,
            "output": folder,
        }
        path.write_text(json.dumps(job))
        script = Path(__file__).parent / "peers" / "trl_packed.py"
        done = subprocess.run([python, script, path], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"\nTRL failed: {done.stderr[-500:]}")
        return {"why_not": done.stderr[-2000:]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    show(f"TRL SFTTrainer, bfloat16, {described(shape)}", [found], "has_flash", "has_liger")
    return found


def pythons_with_trl() -> Iterator[str]:
    """This Python, or that of the environment that the other benchmarks keep."""
    if importlib.util.find_spec("trl") is not None:
        yield sys.executable
    kept = common.PEERS / "trl" / "bin" / "python"
    if (kept.parents[1] / "installed.json").exists():
        yield str(kept)


def greatest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The greatest difference of two courses of the loss, as a share of the second."""
    return max(abs(a / b - 1) for a, b in zip(one, other, strict=True))


def as_row(found: Measured | str) -> dict[str, Any]:
    """What a case came to, for a table and for JSON."""
    return {"why_not": found} if isinstance(found, str) else asdict(found)


def described(shape: Shape) -> str:
    """A shape in words."""
    return (
        f"{shape.num_layers} layers of width {shape.width}, {shape.num_rows} x {shape.length} "
        "tokens a step, all trained"
    )


def show(title: str, rows: Sequence[dict[str, Any]], name: str, *more: str) -> None:
    """A table of what the rows have, and why some have nothing."""
    common_columns = [key for key in ("tokens_per_second", "peak_gib") if key in rows[0]]
    columns = [name, *dict.fromkeys([*common_columns, *more])]
    shown = [[row.get(key) for key in columns] for row in rows if not row.get("why_not")]
    common.print_table(title, [column.replace("_", " ") for column in columns], shown)
    for row in rows:
        if row.get("why_not"):
            print(f"{row[name]}: left out, {row['why_not']}")


if __name__ == "__main__":
    main()
