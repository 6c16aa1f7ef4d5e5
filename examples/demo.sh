#!/usr/bin/env bash
# Turns a transcript into captions: builds and activates the six plugins, runs them until all is done,
# and shows the numbers and one message's trace. Usage: examples/demo.sh [TRANSCRIPT]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
PATH="$(cd "$venv/bin" && pwd):$PATH"

sample=examples/transcripts/panel.jsonl
input=${1:-$sample}
captions=out/captions
plugins=(transcript_source transcript_validator filler_filter caption_transformer language_router webvtt_sink)

echo "==> building and activating ${#plugins[@]} plugins"
for plugin in "${plugins[@]}"; do
    echo-core build "$plugin" development > /dev/null
    echo-core activate "$plugin" development > /dev/null
    echo "    $plugin"
done

echo "==> running: $input"
rm -rf "$captions"
# Each demo is a first one: what was published before is published again.
echo-core state reset transcript_source > /dev/null 2>&1 || true
export ECHO_PLUGIN_TRANSCRIPT_SOURCE__PATH=$input ECHO_PLUGIN_WEBVTT_SINK__DIRECTORY=$captions
code=0
echo-core run --until-idle --trace --plain --only "${plugins[@]}" || code=$?

echo "==> captions"
if ! compgen -G "$captions/*.vtt" > /dev/null; then
    echo "    none were written: the reason stands above"
    exit "$(( code == 0 ? 1 : code ))"
fi
for file in "$captions"/*.vtt; do
    echo "    $file: $(grep -c -- '-->' "$file") captions"
done
if [ "$code" -eq 1 ]; then
    note="some segments could not be used"
    [ "$input" != "$sample" ] || note="six segments of the sample are faulty on purpose"
    echo "    $note; $venv/bin/echo-core dlq list shows each with its reason"
    exit 0
fi
exit "$code"
