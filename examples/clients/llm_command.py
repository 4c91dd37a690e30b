"""The command `llm` (Simon Willison's): a server is one entry in its extra-openai-models.yaml.

Reads OPENAI_BASE_URL (such as http://127.0.0.1:8000/v1) and OPENAI_API_KEY; MODEL is optional.
The entry is written to a folder of its own; yours is the one that `llm logs path` is in.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ENTRY = """
- model_id: my-bot
  model_name: {model}
  api_base: {url}
  api_key_name: my-bot
  supports_schema: true
  supports_tools: true
"""


def main() -> None:
    """Ask whole, streamed, and for a schema."""
    url, model = os.environ["OPENAI_BASE_URL"], os.environ.get("MODEL", "production")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "extra-openai-models.yaml").write_text(ENTRY.format(model=model, url=url))
        keys = {"my-bot": os.environ["OPENAI_API_KEY"]}
        Path(folder, "keys.json").write_text(json.dumps(keys))
        ask = ["-m", "my-bot", "-o", "max_tokens", "128", "What is the refund policy?"]
        print("whole:", len(llm(folder, "prompt", "--no-stream", *ask)) > 0)
        print("streamed:", len(llm(folder, "prompt", *ask)) > 0)
        schema = '{"type": "object", "properties": {"is_sure": {"type": "boolean"}}, '
        schema += '"required": ["is_sure"], "additionalProperties": false}'
        print("schema:", json.loads(llm(folder, "prompt", "--schema", schema, *ask)))


def llm(folder: str, *words: str) -> str:
    """Run the command with its settings in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "llm", *words],
        env=os.environ | {"LLM_USER_PATH": folder},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
