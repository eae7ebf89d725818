"""Writes to standard output for ever."""
import os

piece = b"x" * 63 + b"\n"
while True:
    os.write(1, piece * 1024)
