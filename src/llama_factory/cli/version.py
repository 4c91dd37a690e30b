"""`llama-factory version`."""

from llama_factory import __version__


def version() -> None:
    """The version of this program."""
    print(__version__)
