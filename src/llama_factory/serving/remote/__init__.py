"""Servers that make tokens elsewhere: calls to them, whether they are up, and OpenAI's protocol."""
