"""job and cron: work that is done once, or by the clock."""
