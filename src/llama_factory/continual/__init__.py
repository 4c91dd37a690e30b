"""The round: learn without forgetting, judge, release."""
