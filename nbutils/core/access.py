"""The way to an OpenAI-compatible server, as the environment names it.

What is read there is kept nowhere; a fault names the variable and shows no value.
"""

import os
import re
from typing import Any

from nbutils.core.errors import LabError

NETWORK = re.compile("(?i)(all|https?|no)_proxy|SSL_CERT_(FILE|DIR)")
"""Variables that decide how a server is reached."""


def network_names() -> str:
    """Those of `NETWORK` that are set, as ` (check A, B)`, or nothing."""
    names = [n for n, v in sorted(os.environ.items()) if v and NETWORK.fullmatch(n)]
    return f" (check {', '.join(names)})" if names else ""


def _value(name: str) -> str:
    """A variable without the space around it; LabError where a header cannot hold it.

    Letters outside ASCII and quotation marks come from copied text.
    """
    value = os.environ.get(name, "").strip()
    plain = value.isascii() and value.isprintable()
    if not plain or set(value) & set(" \"'"):
        raise LabError(
            f"{name} holds a quotation mark, a space or a sign outside ASCII: "
            "export it again without"
        )
    return value


def open_sdk(hooks: dict | None = None, transport: Any = None, **options: Any):
    """An `openai.OpenAI` for the server of the environment; `options` are its own.

    `hooks` (of events) and `transport` (in place of the network) go to its HTTP client.
    A server of one's own needs no key. LabError where neither variable is set, where
    one cannot be used, and for a proxy or a file of certificates that fails.
    """
    import openai  # a second of imports

    key, url = _value("OPENAI_API_KEY"), _value("OPENAI_BASE_URL")
    owner = {"organization": _value("OPENAI_ORG_ID") or None,
             "project": _value("OPENAI_PROJECT_ID") or None}  # fmt: skip
    if not key and not url:
        raise LabError(
            "a server needs OPENAI_API_KEY, or OPENAI_BASE_URL of a compatible server, "
            "in the environment; or set llm_mode to replay"
        )
    if url and not re.match("https?://[^/]", url):
        raise LabError(
            "OPENAI_BASE_URL must begin with http:// or https://: export an address "
            "such as http://localhost:8000/v1"
        )
    try:
        client = openai.DefaultHttpxClient(event_hooks=hooks, transport=transport)
        # the SDK insists on a key; a local server ignores it
        return openai.OpenAI(api_key=key or "none", base_url=url or None,
                             http_client=client, **owner, **options)  # fmt: skip
    except Exception as error:  # proxies, certificates: each has its own
        raise LabError(
            f"no connection can be set up{network_names()}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None
