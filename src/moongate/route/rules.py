"""What an offer allows of a request: the abilities of what serves it, and the model's own rules.

Pure. A request that asks for an ability that the serving end lacks is refused before any money
moves; a thinking switch is not: a model that cannot think answers without.
"""

from collections.abc import Iterator

import msgspec

from moongate.core.cards import Ability, Offer
from moongate.core.errors import Refused
from moongate.core.request import ImagePart, Request, VideoPart
from moongate.route import policy as model_policy
from moongate.route.policy import Policy


def check(request: Request, offer: Offer, policy: Policy) -> tuple[Request, tuple[str, ...]]:
    """The request to go on with, and the names of fields that were left out of it.

    Raises Refused (400) naming the field.
    """
    for ability, param in _asked(request):
        if ability not in offer.abilities:
            raise Refused("unsupported_ability", param, ability=ability)
    request, left_out = model_policy.check(request, sampling=offer.card.sampling, policy=policy)
    if request.sampling.stop and _owes_json(request):
        # A stop string within the JSON would cut what was promised.
        sampling = msgspec.structs.replace(request.sampling, stop=())
        return msgspec.structs.replace(request, sampling=sampling), (*left_out, "stop")
    return request, left_out


def fits(request: Request, offer: Offer, policy: Policy) -> bool:
    """Whether :func:`check` would let ``request`` through."""
    try:
        check(request, offer, policy)
    except Refused:
        return False
    return True


def _owes_json(request: Request) -> bool:
    """Whether an answer is JSON, or a call with its arguments, for certain."""
    choice, form = request.tool_choice, request.format
    forced = choice is not None and choice.mode in ("required", "named")
    return forced or (form is not None and form.kind != "text")


def _asked(request: Request) -> Iterator[tuple[Ability, str]]:
    """The abilities that the request needs, each with the field that asks for it."""
    for i, tool in enumerate(request.tools):
        yield ("search" if tool.type == "builtin_function" else "tools"), f"tools[{i}]"
    if request.extra.get("web_search_options") is not None:
        yield "search", "web_search_options"
    if request.format is not None and request.format.kind != "text":
        yield "json", "response_format"
    for i, message in enumerate(request.messages):
        if message.partial:
            yield "partial", f"messages[{i}].partial"
        for j, part in enumerate(message.content if isinstance(message.content, tuple) else ()):
            if isinstance(part, ImagePart):
                yield "images", f"messages[{i}].content[{j}].image_url"
            elif isinstance(part, VideoPart):
                yield "video", f"messages[{i}].content[{j}].video_url"
