"""What becomes of instances when a secret or config that they use has a later version."""
