"""What was said: pure translators between bytes and the nouns of ``core``.

A dialect is one folder here, and its codec faces either way: the reader of a client's request
is the writer's twin that speaks to an upstream. Nothing in this layer awaits, opens a socket or
knows on which side of the gateway it stands.
"""
