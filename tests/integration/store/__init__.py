"""The store on a disk that is really full."""
