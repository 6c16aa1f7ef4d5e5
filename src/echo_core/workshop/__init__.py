"""Where plugins are written, built into libraries, and switched on."""
