"""Which hub is asked first: Hugging Face, or ModelScope where the environment says so."""

import os

FALSE = ("", "0", "false", "n", "no")


def prefers_modelscope() -> bool:
    """Whether USE_MODELSCOPE_HUB is set to something else than no."""
    return os.environ.get("USE_MODELSCOPE_HUB", "").lower() not in FALSE
