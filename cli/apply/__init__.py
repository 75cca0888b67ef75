"""apply, diff and export: objects of any noun from files, and into them."""
