"""Text of files from any system."""

import codecs
import json
import re
import unicodedata


def decode_text(content: bytes, errors: str = "strict") -> str:
    """Text in UTF-8, or in UTF-16 as Windows writes it, also without its mark; line ends become `\\n`."""
    if content[:2].count(0) == 1:  # a Latin letter in UTF-16
        content = (codecs.BOM_UTF16_BE if content[0] == 0 else codecs.BOM_UTF16_LE) + content
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content, errors = content.decode("utf-16", "replace").encode(), "strict"
    return content.decode("utf-8-sig", errors).replace("\r\n", "\n").replace("\r", "\n")


def ascii_name(text: str) -> str:
    """The text as far as it can be a data set's name: letters without accents, digits, `.`, `-` and `_`; or empty.

    >>> ascii_name("Büro 2"), ascii_name("?")
    ('Buro-2', '')
    """
    parts = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    letters = "".join(one for one in parts if not unicodedata.combining(one))
    return re.sub(r"[^A-Za-z0-9._-]", "-", letters).strip("._-")[:100]


def toml_value(value: object) -> str:
    """A value of a TOML file: JSON but for an escaped DEL and no surrogates."""
    return json.dumps(value, default=str, ensure_ascii=False).replace("\x7f", "\\u007f")
