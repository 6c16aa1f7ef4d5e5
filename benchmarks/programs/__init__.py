"""Programs that measure Echo Core alone, one question each; each prints its answer as JSON."""
