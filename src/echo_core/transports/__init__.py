"""Message buses, one file each. `base` holds every promise; `urls` opens one from its URL."""
