"""What became of each message: a bounded record on disk of where messages came from, and how they ended."""
