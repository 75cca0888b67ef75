"""`moor balancer`: listeners of routers and what is behind them."""
