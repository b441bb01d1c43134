"""Scripts for the scripted upstream that are made rather than written, and its prompt cache.

``echo``, ``rounds`` and ``story`` choose a turn by looking at a request; :class:`PrefixCache` says
how much of a prompt was seen before. Tokens are reckoned as four characters each, plus four for
each message: an approximation that is the same every time, and no more than that.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from moongate.upstream.transcript import Delay, Say, Step, Think, Turn, parse

Body = dict[str, Any]
Script = str | tuple[Turn, ...] | Callable[[Body], str | Turn]

CACHE_TOKENS_MIN: Final = 256
_CHARS_PER_TOKEN: Final = 4
_TOKENS_PER_MESSAGE: Final = 4
_REMEMBERED_MAX: Final = 64


def rounds(script: str) -> Callable[[Body], Turn]:
    """A tool loop: the turn is chosen by how many assistant messages the conversation has.

    So several conversations may run at once, each at its own round; the last turn repeats.
    """
    turns = parse(script)

    def choose(body: Body) -> Turn:
        done = sum(1 for message in _messages(body) if message.get("role") == "assistant")
        return turns[min(done, len(turns) - 1)]

    return choose


def echo(body: Body) -> Turn:
    """Says the last user message again, word by word, after a thought."""
    users = [message for message in _messages(body) if message.get("role") == "user"]
    words = _text(users[-1].get("content")).split(" ") if users else []
    said: list[Step] = [Say(word if at == 0 else f" {word}") for at, word in enumerate(words)]
    return Turn((Think("I shall repeat it."), *said))


def story(tokens: int, interval_s: float = 0.0) -> Callable[[Body], Turn]:
    """An answer of ``tokens`` one-token pieces, one every ``interval_s`` seconds."""
    steps: list[Step] = []
    for number in range(tokens):
        if number and interval_s > 0:
            steps.append(Delay(interval_s))
        steps.append(Say(f"word{number % 10} "))
    turn = Turn(tuple(steps))
    return lambda _body: turn


class PrefixCache:
    """Remembers prompts by scope and tells how many tokens of a new one were seen before.

    Kimi's rule: only a prefix of more than 256 tokens counts. A scope is what may share a
    cache: one credential, one salt, one cache key. At most 64 prompts a scope are remembered.
    With ``salted`` off it is an engine that knows no salts: all share one cache.
    """

    def __init__(self, *, salted: bool = True) -> None:
        self._salted = salted
        self._seen: dict[tuple[str, ...], list[str]] = {}

    def cached(self, credential: str, body: Body) -> int:
        """Cached tokens of a request's prompt, which is remembered from now on."""
        salt = str(body.get("cache_salt") or "") if self._salted else ""
        scope = (credential, salt, str(body.get("prompt_cache_key") or ""))
        return self.look(scope, prompt_text(body))

    def look(self, scope: tuple[str, ...], prompt: str) -> int:
        """Cached tokens of ``prompt``, which is remembered from now on."""
        seen = self._seen.setdefault(scope, [])
        chars = max((_shared(prompt, earlier) for earlier in seen), default=0)
        if prompt not in seen:
            seen.append(prompt)
            del seen[:-_REMEMBERED_MAX]
        tokens = chars // _CHARS_PER_TOKEN
        return tokens if tokens > CACHE_TOKENS_MIN else 0


def prompt_text(body: Body) -> str:
    """The conversation and its tools as one text, in the order in which a model reads them."""
    parts = [json.dumps(body.get("tools") or [], sort_keys=True)]
    parts.extend(json.dumps(message, sort_keys=True) for message in _messages(body))
    return "\n".join(parts)


def prompt_tokens(body: Body) -> int:
    """Tokens of the prompt, reckoned."""
    return len(prompt_text(body)) // _CHARS_PER_TOKEN + _TOKENS_PER_MESSAGE * len(_messages(body))


def calls_before(body: Body) -> int:
    """Tool calls that the conversation already holds."""
    return sum(len(message.get("tool_calls") or ()) for message in _messages(body))


def _messages(body: Body) -> list[Body]:
    messages = body.get("messages")
    found = messages if isinstance(messages, list) else []
    return [message for message in found if isinstance(message, dict)]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
