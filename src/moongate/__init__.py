"""Moongate: your own Kimi K2.5 API.

A request meets the parts in this order: ``wire`` reads what was said, ``access`` who may say
it, ``route`` where it should go, ``upstream`` asks for it, ``meter`` counts what it used and
``ledger`` books what it cost. ``gateway.handle`` owns the whole path: start reading there.
``app`` puts the parts together and is the only module that knows them all; ``web`` is HTTP,
``store`` keeps the rows, ``cli`` holds the commands, ``core`` the nouns.

Importing this package starts nothing, reads no environment and touches no disk.
"""

__version__ = "0.1.0"
