"""The run engine under both subgraphs: resolve a job, open its run under a lease, drive it."""
