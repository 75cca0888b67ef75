"""host add: makes a machine a host over ssh. `remote.py` runs commands there, `probe.py` says what it lacks, `steps.py` has the order."""
