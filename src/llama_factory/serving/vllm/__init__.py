"""vLLM as an engine: the process, the calls to it, and the adapters that it is given."""
