"""What the benchmark scripts share: machine facts, tables, results as JSON, peers' environments."""

import json
import os
import platform
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
PEERS = ROOT / ".peers"


def machine() -> dict[str, Any]:
    """The machine and the versions that a number belongs to."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    names = ("torch", "transformers", "peft", "lightning-fabric")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "command": " ".join(Path(arg).name if "/" in arg else arg for arg in sys.argv),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table on stdout."""
    print(f"\n{title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_shown(value) for value in row) + " |")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def write_results(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write the results as JSON where `--out` says."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
        print(f"\nWritten to {path}")


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a peer's own environment, made on first use and kept."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    done = folder / "installed.json"
    if done.exists() and json.loads(done.read_text()) == list(requirements):
        return python
    print(f"Installing {name} into {folder} ...", file=sys.stderr)
    venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    done.write_text(json.dumps(list(requirements)))
    return python


def gemm_gflops() -> float:
    """Rate of float32 matrix products of a training step's shape on this machine, in GFLOP/s."""
    import torch

    left, right = torch.randn(512, 576), torch.randn(576, 1536)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(100):
            left @ right
        best = max(best, 100 * 2 * 512 * 576 * 1536 / (time.perf_counter() - started) / 1e9)
    return best
