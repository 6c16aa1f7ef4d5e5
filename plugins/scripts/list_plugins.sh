#!/bin/sh
# list_plugins.sh [all|development|production]: what there is, and what is activated
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
PATH="$root/.venv/bin:$PATH"
command -v echo-core >/dev/null || {
    echo "echo-core is neither in $root/.venv/bin nor on the PATH; fix: pip install echo-core" >&2
    exit 127
}
exec echo-core --project "$root" list "$@"
