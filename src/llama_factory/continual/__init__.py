"""Strategies against forgetting, and the algebra of weights that they share."""
