"""What comes before what: groups and jobs that depend on others."""
