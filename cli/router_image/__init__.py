"""router-image: the image of virtual routers, and the base that it is built on."""
