"""Processes: who they are, how they meet, what they tell each other, how they are started and stopped.

Doors: `world.World/discover`, `mesh`, `process_group`, `host_reduce.HostSums`, `collectives`,
`local_launch.launch/die_with_parent`, `respawn.command`, `stop_signals`, `allocator.keep_memory`.
"""
