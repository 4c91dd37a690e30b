#!/bin/sh
# The main job on the demo data: a support bot learns two rounds, and you see what it kept.
set -eu
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"
bot=demo-bot

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

rm -rf "$bot"
say llama-factory init "$bot" --model smollm2
for round in round1 round2; do
    say cp examples/demo/$round/*.jsonl "$bot/inbox/"
    say llama-factory learn "$bot"
done
say llama-factory versions "$bot"
say llama-factory show "$bot" --picture "$bot/forgetting.png"
printf 'How many months of warranty does the pump of the Lumora One have?\n/exit\n' |
    say llama-factory chat "$bot"
printf '\nNext: llama-factory serve %s --port 8000, and `cp examples/demo/round3/*.jsonl %s/inbox/`\n' "$bot" "$bot"
