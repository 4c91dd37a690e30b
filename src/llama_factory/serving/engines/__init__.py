"""What makes the tokens behind the server: one engine a file. See `engine.py`."""
