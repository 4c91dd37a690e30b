"""The workspaces that tests of the server have, for engines alone."""

from tests.serving.conftest import own_workspace, workspace

__all__ = ["own_workspace", "workspace"]
