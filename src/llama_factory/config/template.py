"""The commented settings file of a new workspace."""

import json

from llama_factory.model.source import EMBEDDED

TEXT = """\
# Settings of this workspace. Every line that starts with '# ' and a key shows the default: remove
# the '# ' to change it. `llama-factory learn FOLDER --set training.epochs=5` changes one value for
# one round. Unknown keys are errors, with the nearest known name.

model:
  # a short name, a folder with a Transformers model, or a hub id
  base_model: {base_model}
  # adapter: {{type: lora, rank: 16}}   # what trains; a higher rank learns more and forgets more
  # template: chatml              # for models whose tokenizer has no chat template
  # dtype: auto                   # of products and frozen weights; what trains stays in float32

data:
  held_out_fraction: 0.1          # kept back to test where there is no NAME.test.jsonl
  # max_tokens: 1024              # longer rows lose their oldest turns, then the answer's end
  # cleaning:                     # what is done to rows, in this order; `data check FILE` shows it
  #   - unicode
  #   - empty
  #   - length
  #   - repetition
  #   - type: private_data        # mask, hash, drop or keep, for each kind
  #     kinds: {{email: mask, phone: mask}}
  #   - contamination
  #   - type: conflicts           # one question, several answers: majority, newest or people
  #     rule: majority
  #   - near_duplicates

training:
  epochs: {epochs}                       # passes over the new rows; facts need several, style few
  learning_rate: {learning_rate}             # higher learns more in a round and forgets more
  # batch_size: 8                 # rows in one update
  # checkpoint_steps: 50          # updates between checkpoints, from which a killed round goes on
  # seed: 0

strategies:                       # how old knowledge is protected; or a preset, such as: safe
  - type: replay                  # old rows are mixed in
    fraction: 0.25                # their share; higher forgets less and learns less
    schedule: rising              # few at the beginning of a round, most at its end; or: even
    buffer_size: 1000             # rows kept from all earlier rounds together
  - type: anchor                  # general rows are mixed in: a set is built in
    fraction: 0.125
    answer_tokens: 32             # of their answers, the first tokens count
    weight: 0.02                  # hardly anything is learned from them;
  - type: distill                 # they show how far the model moved from the base model,
    rows: [anchor]                # so that general ability stays
    beta: 3                       # higher keeps more of it and learns less
    min_tokens: 32                # short answers count for less
  - type: freeze                  # nothing trains in the lowest layers: faster, forgets less
    layers: 0.3                   # a fraction of all layers, or a number of them
  - type: merge                   # a round goes only a part of its way from the version before:
    alphas: [0.85, 0.7, 0.5]      # tried first; the next ones where the gate refuses it

evaluation:
  # metrics: [exact_match, token_f1]
  max_new_tokens: 64              # longest answer generated in a test
  # guard: my_general_rows.jsonl  # general rows that must not get worse; a set is built in

gate:                             # a new version is released only if all of this holds
  metric: token_f1                # new rows improve, and on old rows this may not fall ...
  max_drop: 0.1                   # ... by more than this
  max_guard_ratio: 1.15           # general perplexity at most this many times the base model's

# knowledge:                      # files in knowledge/, for facts that change too often
#   use: true                     # answers draw on them and cite them; see docs/knowledge.md

serving:
  # host: 127.0.0.1               # 0.0.0.0 opens the API to the network; make a key first
  port: 8000
"""


SMALL = {"epochs": "8", "learning_rate": "2e-3"}
"""What the embedded model of 135 million weights learns facts with (see docs/log.md)."""
USUAL = {"epochs": "3", "learning_rate": "2e-4"}
"""For models of a thousand million weights and more."""


def settings_file(base_model: str) -> str:
    """The text of `factory.yaml`, with a learning rate that fits the size of the model."""
    values = SMALL if base_model == EMBEDDED else USUAL
    return TEXT.format(base_model=json.dumps(base_model, ensure_ascii=False), **values)
