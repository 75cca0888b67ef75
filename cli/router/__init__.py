"""router: virtual routers, and what they do for their networks. One file a group of commands; what people write is read in `words.py`."""
