"""The page: what a workspace is doing, and the buttons of whoever looks after it."""
