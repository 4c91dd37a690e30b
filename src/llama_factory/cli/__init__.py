"""The `llama-factory` command: parse, call `run.py`, print."""
