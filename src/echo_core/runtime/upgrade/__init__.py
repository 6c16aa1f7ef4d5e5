"""Two versions of a plugin side by side, until one of them has proved itself."""
