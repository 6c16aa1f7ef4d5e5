"""Plugins for message pipelines."""
