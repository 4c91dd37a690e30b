"""`python -I THIS_FILE < job.json`: see `processes.main`. It finds the package by its own place."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from llama_factory.evaluation.code.processes import main

    del sys.path[0]
    main()
