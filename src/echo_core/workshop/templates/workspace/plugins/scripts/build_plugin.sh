#!/bin/sh
# build_plugin.sh NAME [development|production]: a library from the plugin in the workshop
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
PATH="$root/.venv/bin:$PATH"
command -v echo-core >/dev/null || {
    echo "echo-core is neither in $root/.venv/bin nor on the PATH; fix: pip install echo-core" >&2
    exit 127
}
exec echo-core --project "$root" build "$@"
