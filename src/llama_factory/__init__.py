"""LLaMA Factory, continual edition: a language model that keeps learning for its whole life."""

__version__ = "0.1.0"
