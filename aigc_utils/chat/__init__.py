"""A chat with memory over the OpenAI SDK, on this machine or far away (lessons 11 and 13).

``Chat`` holds a conversation; ``panel()`` talks in a notebook and ``python -m aigc_utils.chat`` in
the terminal; ``python -m aigc_utils.chat.server`` serves the model of this machine. Importing this
package calls `session.prepare`: two threads, and transformers without a network.
"""

from aigc_utils.chat.conversation import Chat, Prices
from aigc_utils.chat.providers import ChatError, Provider, connect, connect_async
from aigc_utils.chat.talk import panel
from aigc_utils.chat.text import neutralise

__all__ = [
    "Chat",
    "ChatError",
    "Prices",
    "Provider",
    "connect",
    "connect_async",
    "neutralise",
    "panel",
]
