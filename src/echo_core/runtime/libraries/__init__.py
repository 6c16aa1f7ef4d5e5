"""The library format, its verification, and the scopes that a library's code is imported into."""
