"""The author's test kit."""
