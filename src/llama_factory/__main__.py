"""`python -m llama_factory` is the same command as `llama-factory`."""

from llama_factory.cli.app import main

if __name__ == "__main__":
    main()
