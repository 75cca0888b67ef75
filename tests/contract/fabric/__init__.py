"""One suite over the fake fabric and the real one."""
