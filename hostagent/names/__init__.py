"""What an instance is told by its host under addresses of its own namespace: names (DNS at 127.0.0.11), and what it is
(HTTP at 169.254.169.254).
"""
