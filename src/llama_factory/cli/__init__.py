"""The `llama-factory` command: parse, call a verb, print."""
