"""A mixed load with faults for as long as you like, and what must hold at its end: `make soak MINUTES=n`."""
