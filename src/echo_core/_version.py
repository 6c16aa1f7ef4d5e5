"""The one place that states the version of Echo Core."""

__version__ = "0.1.0"
