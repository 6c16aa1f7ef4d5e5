"""The host: loads plugins, feeds them, watches them, stops them."""
