#!/bin/sh
# activate_plugin.sh activate NAME development|production, or deactivate NAME: switch a plugin on or off
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
case "${1-}" in
    activate | deactivate) ;; # the verbs of echo-core
    *) set -- activate_plugin "$@" ;; # which says what is wrong, or helps
esac
PATH="$root/.venv/bin:$PATH"
command -v echo-core >/dev/null || {
    echo "echo-core is neither in $root/.venv/bin nor on the PATH; fix: pip install echo-core" >&2
    exit 127
}
exec echo-core --project "$root" "$@"
