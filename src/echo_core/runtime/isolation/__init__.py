"""The process tier: a plugin in an interpreter of its own, watched and restarted by the host.

`RemotePlugin` is what the host sees: a plugin like any other. Its `Keeper` keeps one worker process alive;
`process` is that process, `session` the conversation with it, `channel` the messages of one lane, `wire` the
frames. `bootstrap`, `worker` and what they import run in the process itself.
"""
