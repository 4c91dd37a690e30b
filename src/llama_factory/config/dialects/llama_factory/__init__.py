"""LLaMA-Factory's flat keys as native settings: a table of keys, and rules for some."""
