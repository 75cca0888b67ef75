"""What several test packages share: the fleet in a box for tests."""
