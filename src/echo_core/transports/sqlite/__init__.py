"""The durable transport: `sqlite://`, one file on disk that survives crashes and is shared by hosts.

`transport` is what the event loop sees, `writer` the one thread that touches the file, `store` the SQL,
`blocks` how messages lie in a row, `leases` who is alive, `settings` what a URL says, `inspection` what can
be asked of a store from outside.
"""
