"""Which hub is asked first: Hugging Face, or ModelScope where the environment says so."""

import os

FALSE = ("", "0", "false", "n", "no")


def modelscope_is_missing(what: str) -> str:
    """What is said where `what` is to come from ModelScope and its package is not installed."""
    return (
        f"{what} is to come from ModelScope, and the package modelscope, which fetches it, is not "
        "installed. Run pip install modelscope, or unset USE_MODELSCOPE_HUB to use Hugging Face."
    )


def prefers_modelscope() -> bool:
    """Whether USE_MODELSCOPE_HUB is set to something else than no."""
    return os.environ.get("USE_MODELSCOPE_HUB", "").lower() not in FALSE
