"""The round: from files in the inbox to a version that is released, held or refused."""
