"""One step for one instance at a time, through engine, fabric and runtime. Decides nothing."""
