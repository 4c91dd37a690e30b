"""Conversations as text and tokens: chat templates, masks, prompts, the cache of tokens."""
