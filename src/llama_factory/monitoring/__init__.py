"""Drift of inputs and outputs, users and the machine: series with alerts. It acts on nothing."""
