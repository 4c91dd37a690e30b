"""llama.cpp's server through the package xllamacpp. Runs in its own environment.

Usage: llama_cpp_server.py MODEL.gguf PORT THREADS SLOTS
"""

import signal
import sys

import xllamacpp

CONTEXT = 1024
"""Tokens of a conversation, for each slot."""


def main() -> None:
    """Answer until a signal."""
    model, port, threads, slots = sys.argv[1], *map(int, sys.argv[2:])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port, params.hostnames = port, ["127.0.0.1"]
    params.n_parallel, params.n_ctx = slots, CONTEXT * slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
