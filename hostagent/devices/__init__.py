"""Devices of this host that one instance can have for itself: what there is, and how the engine hands it through.

`cdi.py` and `nvidia.py` read what others say of devices, `handing.py` makes one list of it and gives an instance its own (all pure),
`inventory.py` looks at the host.
"""
