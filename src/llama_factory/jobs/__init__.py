"""What a person starts that is no round: single runs, their answers, cross-validation."""
