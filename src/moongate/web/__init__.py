"""HTTP: the route table, the server that enforces it, and the handlers.

``routes`` is data; ``server`` decides on the raw path in one place and denies by default;
``handlers`` answer. Everything about a paid request's life lies in the gateway.
"""
