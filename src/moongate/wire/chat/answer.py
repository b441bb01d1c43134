"""An unstreamed chat completion, and the usage object that both forms of an answer share.

``usage`` carries every spelling that clients read: Moonshot's flat ``cached_tokens``, OpenAI's
nested details, and beside them the charge: ``cost_nanos`` (integer nano-dollars) and ``cost``, the
same in dollars, printed from the integer; and ``saved_nanos`` with ``saved_usd``, what the cached
tokens cost less than uncached ones would. ``searches`` are those of the web that were carried out;
``search_errors`` has a word for each other one, where there was any. ``attempts`` stands there
where more than one answer was made. The numbers are the bill's; none is computed here.
"""

from typing import Any, Final

import msgspec

from moongate.core.events import Answer, Choice, Citation
from moongate.core.money import Bill, nanos_to_usd
from moongate.core.ports import Head
from moongate.wire.chat.write import write_call

HINT: Final = (
    "The reasoning used the whole output cap, so there is no content: raise max_completion_tokens, "
    "or turn thinking off."
)
"""What an answer says in ``hint`` where the cap was reached before a word of content."""


def usage_json(bill: Bill) -> bytes:
    """The usage object as JSON bytes; ``cost`` is a number that no float has touched."""
    usage = bill.usage
    attempts = f',"attempts":{bill.attempts}' if bill.attempts > 1 else ""
    failed = ",".join(f'"{word}"' for word in bill.search_errors)
    errors = f'"search_errors":[{failed}],' if failed else ""
    return (
        f'{{"prompt_tokens":{usage.prompt},"completion_tokens":{usage.output},'
        f'"total_tokens":{usage.total},"cached_tokens":{usage.cache_read},'
        f'"prompt_tokens_details":{{"cached_tokens":{usage.cache_read}}},'
        f'"completion_tokens_details":{{"reasoning_tokens":{usage.reasoning or 0}}},'
        f'"saved_nanos":{bill.saved_nanos},"saved_usd":"{nanos_to_usd(bill.saved_nanos)}",'
        f'"searches":{usage.searches},{errors}'
        f'"cost":{nanos_to_usd(bill.cost_nanos)},"cost_nanos":{bill.cost_nanos}{attempts}}}'
    ).encode()


def write_answer(answer: Answer, head: Head, bill: Bill) -> bytes:
    """The ``chat.completion`` object. ``content`` is a string always, never null."""
    body: dict[str, Any] = {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created_s,
        "model": head.model,
    }
    if head.fingerprint:
        body["system_fingerprint"] = head.fingerprint
    body["choices"] = [_choice(choice) for choice in answer.choices]
    body["usage"] = msgspec.Raw(usage_json(bill))
    if any(map(_only_thought, answer.choices)):
        body["hint"] = HINT
    return msgspec.json.encode(body)


def _only_thought(choice: Choice) -> bool:
    said = choice.text or choice.calls
    return choice.reason == "length" and bool(choice.thinking) and not said and not choice.unpaid


def annotation(citation: Citation) -> dict[str, Any]:
    """A source in the shape of OpenAI's ``url_citation``; indexes count characters of content."""
    source = {
        "url": citation.url,
        "title": citation.title,
        "start_index": citation.start,
        "end_index": citation.end,
    }
    return {"type": "url_citation", "url_citation": source}


def _choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text}
    if choice.thinking is not None:
        message["reasoning_content"] = choice.thinking
    if choice.calls:
        message["tool_calls"] = [write_call(call) for call in choice.calls]
    if choice.citations:
        message["annotations"] = [annotation(citation) for citation in choice.citations]
    return {"index": choice.index, "message": message, "finish_reason": choice.reason}
