"""What this host was told and what it did, written before it acts; survives kill -9 and power cuts. Decides nothing."""
