"""Makes the images of templates: brings them from wherever they are into the platform's registry, and takes them out again.

`importer.py` knows registries, tars and addresses; `builds.py` has hosts build and snapshot; `runner.py` owns the work of every
running operation and begins it again after a restart where it can.
"""
