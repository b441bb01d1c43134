"""One model's rules over a request, under each policy that a key may have."""

import json

import pytest

from moongate.core.cards import Card, Fixed, Offer
from moongate.core.errors import Refused
from moongate.core.money import Price
from moongate.core.request import Request
from moongate.core.rows import PriceRow
from moongate.route import rules
from moongate.route.policy import check
from moongate.wire.chat import ChatCodec

NO = "c4n4ry"
TOOLS = [{"type": "function", "function": {"name": "f"}}]


K25 = Fixed(1.0, 0.6, 0.95, 1, 0.0, 0.0)


def ask(**fields: object) -> Request:
    messages = [{"role": "user", "content": "hi"}]
    return ChatCodec().read_request(
        json.dumps({"model": "m", "messages": messages} | fields).encode()
    )


def policy_refuses(request: Request, **kwargs: object) -> Refused:
    with pytest.raises(Refused) as caught:
        check(request, sampling=K25, **kwargs)
    assert caught.value.code in {"invalid_value", "unknown_parameter"}
    return caught.value


@pytest.mark.parametrize("thinking", [None, True, False])
def test_the_fixed_values_themselves_are_fine(thinking):
    mode = {} if thinking is None else {"thinking": {"type": "enabled" if thinking else "disabled"}}
    temperature = 0.6 if thinking is False else 1
    request = ask(
        temperature=temperature, top_p=0.95, n=1, presence_penalty=0, frequency_penalty=0.0, **mode
    )
    for policy in ("standard", "strict", "lenient"):
        assert check(request, sampling=K25, policy=policy) == (request, ())


@pytest.mark.parametrize(
    ("field", "value", "only", "thinking"),
    [
        ("temperature", 0.5, "1", "enabled"),
        ("temperature", 1, "0.6", "disabled"),
        ("top_p", 0.8, "0.95", "enabled"),
        ("n", 2, "1", "disabled"),
        ("presence_penalty", 0.5, "0", "enabled"),
        ("frequency_penalty", 0.5, "0", "disabled"),
    ],
)
def test_another_value_is_refused_in_the_known_words_or_dropped(field, value, only, thinking):
    request = ask(**{field: value, "thinking": {"type": thinking}, "stop": "x"})
    error = policy_refuses(request)
    assert error.message == f"invalid {field}: only {only} is allowed for this model"
    assert error.param == field
    kept, dropped = check(request, sampling=K25, policy="lenient")
    assert dropped == (field,)
    assert getattr(kept.sampling, field) is None
    assert kept.sampling.stop == ("x",)
    assert check(request, sampling=None) == (request, ())


def test_a_forced_tool_and_thinking_exclude_each_other():
    named = {"type": "function", "function": {"name": "f"}}
    for choice, word in (("required", "required"), (named, "specified")):
        request = ask(tools=TOOLS, tool_choice=choice)
        told = f"tool_choice '{word}' is incompatible with thinking enabled"
        for policy in ("standard", "lenient"):
            error = policy_refuses(request, policy=policy)
            assert (error.message, error.param) == (told, "tool_choice")
        instant = ask(tools=TOOLS, tool_choice=choice, thinking={"type": "disabled"})
        assert check(instant, sampling=K25) == (instant, ())
        assert check(request, sampling=K25, thinking_default=False) == (request, ())
    for choice in ("auto", "none"):
        assert check(ask(tools=TOOLS, tool_choice=choice), sampling=K25)[1] == ()


def test_a_strict_key_takes_no_unknown_field():
    error = policy_refuses(ask(seed=1), policy="strict")
    assert (error.code, error.param, error.message) == (
        "unknown_parameter",
        "seed",
        "Unknown parameter.",
    )
    assert policy_refuses(ask(**{f"<{NO}>": 1}), policy="strict").param == "?"
    known = ask(safety_identifier="u", prompt_cache_key="k")
    assert check(known, sampling=K25, policy="strict") == (known, ())
    assert check(ask(seed=1), sampling=K25)[1] == ()


def test_stop_strings_are_left_out_where_json_is_owed_and_named():
    able = frozenset({"json", "tools"})
    card = Card("m", (), 1000, 100, able, ())
    price = PriceRow(1, "m", Price(1, 1, 1), 0)
    offer = Offer(card, price, 1000, 100, able, "", "none", "u", None)
    of_a_schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    for form, kept, left_out in (
        (None, ("}",), ()),
        ({"type": "text"}, ("}",), ()),
        ({"type": "json_object"}, (), ("stop",)),
        (of_a_schema, (), ("stop",)),
    ):
        request = ask(stop=["}"], response_format=form)
        found, names = rules.check(request, offer, "standard")
        assert (found.sampling.stop, names) == (kept, left_out)
    tool = {"type": "function", "function": {"name": "f"}}
    for choice, left_out in (
        (None, ()),
        ("auto", ()),
        ("none", ()),
        ("required", ("stop",)),
        (tool, ("stop",)),
    ):
        request = ask(stop=["}"], tools=[tool], tool_choice=choice)
        found, names = rules.check(request, offer, "standard")
        assert (found.sampling.stop == (), names) == (bool(left_out), left_out)
