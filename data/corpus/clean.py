"""What is mended in a text before anything is counted or learned from it."""

from __future__ import annotations

import html
import ipaddress
import re
import unicodedata
from collections import Counter

from data.corpus.config import Clean

HTML_ATTRIBUTES = (
    r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>\"']+)|\s+(?:nowrap|noshade|compact|hidden))*\s*/?"
)
LINE_BREAK_TAG = re.compile(
    r"</?(?:br|hr|p|div|li|ul|ol|dl|dt|dd|tr|td|th|table|h[1-6]|blockquote|center|pre)" + HTML_ATTRIBUTES + ">",
    re.IGNORECASE,
)
HTML_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|center|cite|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre|s|small"
    r"|span|strike|strong|sub|sup|table|tbody|td|th|tr|tt|u|ul)" + HTML_ATTRIBUTES + ">",
    re.IGNORECASE,
)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\ufeff]")
EMAIL_ADDRESS = re.compile(r"\b[\w.+%'-]+@[\w-]+(?:\.[\w-]+)+\b")
IP_ADDRESS = re.compile(
    r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"
    r"|(?<![\w:])(?=[0-9a-f:]*\d)[0-9a-f]{0,4}(?::{1,2}[0-9a-f]{1,4}){1,7}(?:::)?(?![\w:])",
    re.IGNORECASE,
)
CARD_NUMBER = re.compile(r"(?<![\d+-])\d(?:[ -]?\d){12,18}(?![\d-])")
# Groups of digits as people write them: +44 20 7946 0958, (555) 123-4567, 555.123.4567; a date or a year span is none.
PHONE_NUMBER = re.compile(
    r"(?<![\w+.])(?<!\d[ -])(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?(?:\d{1,4}[ .-]?){2,5}\d{2,4}"
    r"|(?:[18][ .-])?\(\d{2,5}\)[ .-]?(?:\d{3,5}[ .-]?\d{3,4}|\d{3}-\d\d-\d\d)"
    r"|(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}|0\d([ .])\d\d(?:\1\d\d){3}|0\d[ -]\d{4}[ -]?\d{4}"
    r"|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4})(?!\w)"
)


def is_ip_address(text: str) -> bool:
    """Whether it is an address; hours, minutes, seconds and frames are none."""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_card_number(digits: str) -> bool:
    """Whether a number's last digit checks the others (Luhn 1960)."""
    numbers = [int(digit) for digit in reversed(digits)]
    if digits[0] not in "23456" or len(digits) == 13 and digits[0] != "4":
        return False  # a book's number, a time in milliseconds
    return sum(numbers[::2] + [sum(divmod(2 * number, 10)) for number in numbers[1::2]]) % 10 == 0


def mask_pii(text: str, counts: Counter) -> str:
    """E-mail and IP addresses, card and phone numbers replaced by their kind."""

    def put(kind: str, holds=lambda found: True):
        def replace(found: re.Match) -> str:
            if not holds(found[0]):
                return found[0]
            counts[kind] += 1
            return f"[{kind}]"

        return replace

    if "@" in text:
        text = EMAIL_ADDRESS.sub(put("email"), text)
    if any(character.isdigit() for character in text):
        text = CARD_NUMBER.sub(put("card", lambda found: is_card_number(re.sub(r"\D", "", found))), text)
        text = IP_ADDRESS.sub(put("ip", is_ip_address), text)
        text = PHONE_NUMBER.sub(put("phone", lambda found: 8 <= sum(map(str.isdigit, found)) <= 15), text)
    return text


def fix_mojibake(text: str) -> str:
    """Lines that were decoded in the wrong encoding, decoded in the right one."""
    import ftfy

    return "\n".join(ftfy.fix_encoding(line) if ftfy.is_bad(line) else line for line in text.split("\n"))


def clean_text(text: str, config: Clean = Clean(), counts: Counter | None = None) -> str:
    """The text mended: encoding, HTML, control characters, NFC, white space (line ends are kept).

    counts: what was mended is added up here, by kind.
    """
    counts = Counter() if counts is None else counts
    if config.encoding and not text.isascii():
        # Control characters in the middle of a word hide what it was.
        mended = fix_mojibake(text.replace("\x00", ""))
        counts["encoding"] += mended != text
        text = mended
    if config.html:
        if "<" in text:
            plain = HTML_TAG.sub("", LINE_BREAK_TAG.sub("\n", text))
            counts["html"] += plain != text
            text = plain
        if "&" in text:
            text = html.unescape(text)
    if text.isascii() and text.isprintable():  # most of English, told at once: one line, blanks its only white space
        text = " ".join(text.split()) if "  " in text else text.strip(" ")
    else:
        text = CONTROL_CHARACTERS.sub("", text) if CONTROL_CHARACTERS.search(text) else text
        text = unicodedata.normalize("NFC", text)
        text = "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))
    return mask_pii(text, counts) if config.mask_pii else text
