"""Review by people: disputed rows, their cases, decisions."""
