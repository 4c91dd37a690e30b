"""A finished folder goes to a model hub."""

from collections.abc import Callable
from pathlib import Path

from llama_factory.core.errors import ConfigError, first_line

LEFT_HERE = ("checkpoint*", "checkpoint*/**", "runs/**", ".*", ".*/**", "metrics.jsonl")
"""What is of the run and not of the model."""


def upload(folder: Path, name: str, *, is_private: bool, say: Callable[[str], None]) -> None:
    """Put what a run or an export wrote into a repository, which is made where there is none.

    Args:
        folder: whole.
        name: of the repository; without an owner it is the user's whose token HF_TOKEN holds.
        is_private: of a repository that is made.
        say: shows where it is.

    Raises:
        ConfigError: the hub refuses it, or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        made = api.create_repo(name, private=is_private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, ignore_patterns=[*LEFT_HERE])
    except hub_refusals() as error:
        raise ConfigError(
            f"upload_to: '{name}' could not be written to ({first_line(error)}). "
            f"Check the name, HF_TOKEN and the connection; {folder} is whole, so "
            f"`hf upload {name} {folder}` does the same later."
        ) from error
    say(f"Uploaded to {made}.")


def hub_refusals() -> tuple[type[Exception], ...]:
    """What a hub raises that refuses something or cannot be reached."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return HfHubHTTPError, HFValidationError, OSError, ValueError
