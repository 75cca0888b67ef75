"""What a router's container is told, derived from the records of users: pure values in, bundles out.

Who makes the containers is in `controlplane/router_members/`, what callers may ask in `controlplane/services/`.
"""
