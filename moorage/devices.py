"""What programs agree on about devices of hosts: how they are named, and how many are told. Kinds and names are those of CDI."""

import re

KIND = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]{0,126}[A-Za-z0-9])?")
MOST_DEVICES = 256  # of a host
MOST_NAMES = 16  # of a device
MOST_IMAGES = 64  # of which a host tells that it holds them
