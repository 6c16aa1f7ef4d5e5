"""The command line `echo-core`: one file a verb, and what they share."""
