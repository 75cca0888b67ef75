"""Carries out on one host what the control plane decided: Docker, netlink, images. It decides nothing about other
hosts.
"""
