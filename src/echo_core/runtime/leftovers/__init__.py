"""What a plugin in the host's process leaves behind: found, ended where that is safe, and told.

`owner` knows what is the plugin's own; `running` finds its tasks and threads, `held` the files, sockets,
children and pools that its objects hold, `surroundings` what it changed for the whole process. `sweep` does
it all, once, after `shutdown`: nothing is watched, wrapped or counted while messages move.
"""
