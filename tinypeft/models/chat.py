"""Chat templates: a conversation as the text that a model was taught to read, by Jinja as in transformers."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from tinypeft.files import optional

Message = Mapping[str, Any]  # {"role": "user", "content": "Hello"}


def render_chat(template: str, conversation: list[Message], **variables: Any) -> str:
    """Fill a template with messages and with what else it may ask for, such as `add_generation_prompt`.

    Raises:
        TypeError: `conversation` is not a list of dicts.
        ValueError: the template is faulty or refuses the messages; the message says what it said.
        ImportError: the library `jinja2` is not installed.
    """
    if not isinstance(conversation, list) or not all(isinstance(message, Mapping) for message in conversation):
        raise TypeError('a conversation is a list of messages like {"role": "user", "content": "Hello"}, got '
                        f"{conversation!r}")
    jinja2, sandbox = (optional(module, "a chat template") for module in ("jinja2", "jinja2.sandbox"))

    def raise_exception(message: str) -> None:
        """What templates call to refuse a conversation."""
        raise jinja2.TemplateError(message)

    # A sandbox, since a template comes from whoever made the model, and Jinja could otherwise reach all of Python.
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                        extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # Jinja's own is for HTML
    environment.globals["raise_exception"] = raise_exception
    try:
        return str(environment.from_string(template).render(messages=conversation, **variables))
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"the chat template does not take this conversation: {error}") from error
