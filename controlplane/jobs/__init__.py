"""Jobs and cron jobs: what they do next, and who does it."""
