"""The platform's private image registry: the server we run, the tokens it accepts, and a client for any v2 registry.

What an image is made of and how one is converted lives in `controlplane.images`; this package never reads a tar or a
Dockerfile.
"""
