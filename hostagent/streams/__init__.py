"""Looking into instances: logs, exec, copies, statistics, connections."""
