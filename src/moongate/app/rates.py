"""Who counts rates: Redis where the settings name one, else the database of several processes."""

from moongate.access.bodies import Bodies
from moongate.access.counter import LocalCounter
from moongate.access.ladder import Ladder, Replicas
from moongate.access.limits import Limits
from moongate.core.errors import ConfigurationError
from moongate.core.ports import Clock, Store
from moongate.core.rates import Ask, Counter, CounterGone
from moongate.log import Log
from moongate.metrics import Metrics
from moongate.settings import Settings


def make_limits(
    settings: Settings, store: Store, owner: str, clock: Clock, log: Log, metrics: Metrics
) -> Limits:
    """The gate over whoever counts, not started. Raises ConfigurationError."""
    local = LocalCounter(clock)
    shared = _shared(settings)
    largest, room = settings.server.body_bytes_max, settings.server.bodies_bytes_max
    # Whatever one account sends, there is room for the largest body of another.
    bodies = Bodies(room, share=max(largest, room - largest))
    if shared is None:
        return Limits(local, bodies=bodies)

    def told(why: str | None) -> None:
        metrics.rates_degraded.set(why is not None)
        log.event("rates_shared" if why is None else "rates_degraded", kind=why)

    replicas = Replicas(store, owner, clock, settings.server.workers)
    return Limits(Ladder(shared, local, replicas, told), bodies=bodies)


def _shared(settings: Settings) -> Counter | None:
    """The counter of all replicas; ``None`` where there is one process alone."""
    redis, store = settings.rates.redis_url, settings.store.url
    if not redis and not store.startswith("postgresql://"):
        return None
    try:
        # An extra that only several processes need.
        from moongate.access.redis_counter import RedisCounter  # noqa: PLC0415 - as said above
        from moongate.store.postgres_rates import PostgresCounter  # noqa: PLC0415 - the same
    except ImportError:
        raise ConfigurationError(
            "rates.redis_url and a PostgreSQL store need: pip install 'moongate[scale]'."
        ) from None
    return RedisCounter(redis) if redis else PostgresCounter(store)


async def trouble(settings: Settings) -> str:
    """Why the counter of all replicas cannot be asked now, in a word; nothing when it answers.

    Raises ConfigurationError.
    """
    shared = _shared(settings)
    if shared is None:
        return ""
    try:
        await shared.start()
        await shared.ask(Ask("moongate", "keep", ()))
    except CounterGone as error:
        return error.kind
    finally:
        await shared.close()
    return ""
