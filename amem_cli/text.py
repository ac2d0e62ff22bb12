"""Text of files from any system."""

import codecs


def decode_text(content: bytes, errors: str = "strict") -> str:
    """Text in UTF-8, or in UTF-16 as Windows writes it; line ends become `\\n`.

    >>> decode_text("a\\r\\n".encode("utf-16-le")), decode_text("é".encode("utf-16"))
    ('a\\n', 'é')
    """
    if content[:2].count(0) == 1:  # Latin letters in UTF-16 without its mark
        mark = codecs.BOM_UTF16_LE if content[1] == 0 else codecs.BOM_UTF16_BE
        content = mark + content
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content, errors = content.decode("utf-16", "replace").encode(), "strict"
    return content.decode("utf-8-sig", errors).replace("\r\n", "\n").replace("\r", "\n")
