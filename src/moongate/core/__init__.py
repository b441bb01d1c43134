"""The nouns: requests, events, money, errors, rows and ports.

Standard library and msgspec only; nothing here imports another part of Moongate,
performs I/O or awaits.
"""
