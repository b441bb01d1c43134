"""What an offer allows of a request: the abilities of what serves it, and the model's own rules.

Pure. A request that asks for an ability that the serving end lacks is refused before any money
moves; a thinking switch is not: a model that cannot think answers without.
"""

from moongate.core.cards import Ability, Offer
from moongate.core.errors import Refused
from moongate.core.request import ImagePart, Message, Request, VideoPart
from moongate.wire.chat.rules import Policy
from moongate.wire.chat.rules import check as check_model


def check(request: Request, offer: Offer, policy: Policy) -> tuple[Request, tuple[str, ...]]:
    """The request to go on with, and the names of fields that a ``lenient`` key had dropped.

    Raises Refused (400) naming the field.
    """
    for ability, param in _asked(request):
        if ability not in offer.abilities:
            raise Refused("unsupported_ability", param, ability=ability)
    return check_model(request, sampling=offer.card.sampling, policy=policy)


def _asked(request: Request) -> list[tuple[Ability, str]]:
    """The abilities that the request needs, each with the field that asks for it."""
    asked: list[tuple[Ability, str]] = []
    if request.tools:
        searches = any(tool.type == "builtin_function" for tool in request.tools)
        asked.append(("search" if searches else "tools", "tools"))
    if request.format is not None and request.format.kind != "text":
        asked.append(("json", "response_format"))
    for i, message in enumerate(request.messages):
        asked += _media(message, f"messages[{i}]")
        if message.partial:
            asked.append(("partial", f"messages[{i}].partial"))
    return asked


def _media(message: Message, at: str) -> list[tuple[Ability, str]]:
    if not isinstance(message.content, tuple):
        return []
    asked: list[tuple[Ability, str]] = []
    for j, part in enumerate(message.content):
        if isinstance(part, ImagePart):
            asked.append(("images", f"{at}.content[{j}].image_url"))
        elif isinstance(part, VideoPart):
            asked.append(("video", f"{at}.content[{j}].video_url"))
    return asked
