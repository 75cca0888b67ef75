"""What becomes of volumes: removed from their hosts, lost with them, begun anew elsewhere."""
