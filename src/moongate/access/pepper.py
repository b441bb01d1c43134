"""One pepper for one store: replicas that hash keys differently would refuse each other's keys.

The store remembers a fingerprint of the pepper that it was set up with. It is an HMAC of the 32
random bytes for this purpose alone, and reveals nothing of them or of what else they derive.
"""

from pathlib import Path

from moongate.access.keys import derive
from moongate.core.errors import ConfigurationError
from moongate.core.ports import Store


async def agree(store: Store, pepper: bytes, file: Path) -> None:
    """See that an open ``store`` knows ``pepper``, or knows none yet. ``file`` is where it lies.

    Raises ConfigurationError for a store that was set up with another one.
    """
    mine = derive(pepper, "fingerprint").hex()
    if await store.bind("pepper", mine) != mine:
        raise ConfigurationError(
            f"The store was set up with another pepper than {file}, so no key of one would work "
            "with the other. Stop every server of this home folder and copy the file "
            "secrets/pepper from the home folder of the server that made the store, or from your "
            "backup."
        )
