"""Where rows live: one port (``core.ports.Store``), one module an engine.

``sqlite`` is the embedded engine, ``memory`` its twin for tests. No module here knows why money
moves, and none holds content: ids, times, counts, prices and states are all that comes in.
"""
