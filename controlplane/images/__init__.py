"""Turns what a user brings (a reference, a tar, a URL, a Dockerfile) into manifests and blobs of the platform's
registry.

Everything goes through the registry's HTTP API. No Docker Engine is asked, and nothing of an archive is unpacked on
disk: archives are read as data, so their member names, owners and device nodes can do no harm here.
"""
