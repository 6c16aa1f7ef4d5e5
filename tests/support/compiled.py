"""Says whether compiled modules are used, and ends with 1 where they are not: for `make test-compiled`."""

import sys

from common_telemetry import compiled


def main() -> int:
    """Print what runs compiled."""
    names = compiled.modules()
    sys.stdout.write(f"{len(names)} modules run compiled: {', '.join(names)}\n")
    return 0 if names else 1


if __name__ == "__main__":
    raise SystemExit(main())
