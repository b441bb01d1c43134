"""What buyers need beside answers, as the settings say: invitations, top-ups, balance alerts.

What is not configured is not made, and a route without a handler does not exist.
"""

from collections.abc import Callable

from moongate.access.invites import Invites
from moongate.access.keys import Keys
from moongate.core.cards import Offer
from moongate.core.money import usd_to_nanos
from moongate.core.ports import Clock, Store
from moongate.payments.alerts import Alerts
from moongate.payments.checkout import Checkout
from moongate.payments.till import Report, Till
from moongate.settings import Settings
from moongate.web.join import Joining
from moongate.web.paying import Paying
from moongate.web.server import Handler


def buyer_handlers(
    settings: Settings,
    store: Store,
    keys: Keys,
    clock: Clock,
    report: Report,
    offers: Callable[[], list[Offer]],
) -> dict[str, Handler]:
    """The handlers of the routes for buyers, by name."""
    topups = settings.topups
    till = checkout = None
    if topups.stripe_secret is not None:
        till = Till(store, clock, report, secret=topups.stripe_secret.reveal())
    if topups.stripe_api_key is not None:
        checkout = Checkout(
            api_key=topups.stripe_api_key.reveal(),
            base_url=topups.stripe_base_url,
            success_url=topups.success_url,
            cancel_url=topups.cancel_url,
            least_nanos=usd_to_nanos(topups.usd_min),
            most_nanos=usd_to_nanos(topups.usd_max),
        )
    joining = Joining(
        Invites(store, keys, clock),
        public_url=settings.server.public_url,
        operator=settings.operator.name,
        model=lambda: next((offer.card.id for offer in offers()), "MODEL"),
    )
    return joining.table() | Paying(till, checkout).table()


def make_alerts(settings: Settings, store: Store, clock: Clock, report: Report) -> Alerts | None:
    """Who tells of low balances, where somebody is to be told."""
    alerts = settings.alerts
    if not alerts.webhook_url or alerts.webhook_secret is None:
        return None
    return Alerts(
        store,
        clock,
        report,
        url=alerts.webhook_url,
        secret=alerts.webhook_secret.reveal(),
        below_nanos=usd_to_nanos(alerts.low_balance_usd),
    )
