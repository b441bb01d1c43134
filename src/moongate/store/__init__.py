"""Where rows live: one port (``core.store.Store``), one module an engine.

``sqlite`` is the embedded engine, ``postgres`` the one for many processes, ``memory`` their twin
for tests. No module here knows why money moves, and none holds content: ids, times, counts, prices
and states are all that comes in.
"""
