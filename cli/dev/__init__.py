"""The fleet in a box: several real Docker hosts on one machine, for users who try a fleet and for the end-to-end tests.

Each host has network, mount and UTS namespaces, a containerd, a dockerd and an agent of its own; an underlay bridge
joins them and the machine. Everything that is made is found again by its owner's token, so that `down` removes all of
it whatever was interrupted. This package starts the control plane and the agents as processes and imports neither.

config.py     what a fleet is: names, addresses, folders (pure)
state.py      what was made: the fleet's token, on disk before anything else; the lock
processes.py  starts processes that outlive us, and finds and ends only ours
cgroups.py    control groups of a host's containers
underlay.py   bridge, legs, egress
machine.py    one host's namespaces, containerd and dockerd
programs.py   control plane and agent: configuration files, commands, readiness
host.py       a running host: run a command, run docker
removal.py    takes everything away again
fleet.py      the operations: up, down, status, cut, heal, kill, start, power_off
enroll.py     join tokens and host readiness over the API
rootfs.py     a root file system without a registry
commands.py   `moor dev ...`
"""
