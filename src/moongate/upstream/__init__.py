"""Asking for an answer: each place that answers is an ``Upstream`` (``core.ports``).

``http`` speaks to Moonshot, vLLM, SGLang and OpenAI-compatible hosts, ``quirks`` says what each of
them wants changed in a request, ``refusals`` reads how they say no. ``scripted`` is the public
fake that speaks Kimi's stream from a transcript. Nothing here knows customers, keys of ours
or money; nothing retries: that is the gateway's.
"""
