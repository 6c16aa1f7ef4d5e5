"""The host: loads what is enabled, feeds it, watches it, stops it in the right order."""
