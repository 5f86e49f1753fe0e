"""Devices: each renders a loop nest, compiles it and launches it. One protocol, ``device.Device``."""
