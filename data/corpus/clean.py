"""Cleaning of a text: encoding, HTML, white space and, on request, personal data."""

import html
import ipaddress
import re
import unicodedata
from collections import Counter

from data.corpus.config import Clean

HTML_ATTRIBUTES = (
    r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>\"']+)|\s+(?:nowrap|noshade|compact|hidden))*\s*/?>"
)
LINE_BREAK_TAG = re.compile(
    r"</?(?:br|hr|p|div|li|ul|ol|dl|dt|dd|tr|td|th|table|h[1-6]|blockquote|center|pre)" + HTML_ATTRIBUTES, re.IGNORECASE
)
HTML_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|center|cite|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre|s|small"
    r"|span|strike|strong|sub|sup|table|tbody|td|th|tr|tt|u|ul)" + HTML_ATTRIBUTES,
    re.IGNORECASE,
)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\ufeff]")
LONG_REFERENCE = re.compile(r"(?<=&#)(?:0*+[1-9][0-9]{7,}+|0{8,}+)")  # longer than any character's; int() has a limit
LONG_MARKS = re.compile(r"[^\w\s\x00-\u02ff]{32,}")
EMAIL_DOMAIN = r"@[\w-]+(?:\.[\w-]+)+\b"
# What cannot start an address is skipped as a whole: linear time for "a.a.a.a".
EMAIL_ADDRESS = re.compile(rf"(?P<skip>[\w.+%'-]++(?!{EMAIL_DOMAIN})|(?!\b)[.+%'-]++)|\b[\w.+%'-]+{EMAIL_DOMAIN}")
IP_ADDRESS = re.compile(
    r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"
    r"|(?<![\w:])(?=[0-9a-f:]*\d)[0-9a-f]{0,4}(?::{1,2}[0-9a-f]{1,4}){1,7}(?:::)?(?![\w:])",
    re.IGNORECASE,
)
CARD_NUMBER = re.compile(r"(?<![\d+-])\d(?:[ -]?\d){12,18}(?![\d-])")
# Groups of digits in common notations: +44 20 7946 0958, (555) 123-4567, 555.123.4567; not a date or a range of years.
PHONE_NUMBER = re.compile(
    r"(?<![\w+.])(?<!\d[ -])(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?(?:\d{1,4}[ .-]?){2,5}\d{2,4}"
    r"|(?:[18][ .-])?\(\d{2,5}\)[ .-]?(?:\d{3,5}[ .-]?\d{3,4}|\d{3}-\d\d-\d\d)"
    r"|(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}|0\d([ .])\d\d(?:\1\d\d){3}|0\d[ -]\d{4}[ -]?\d{4}"
    r"|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4})(?!\w)"
)


DEFAULT_CLEAN = Clean()


def is_ip_address(text: str) -> bool:
    """Return whether a text is an IP address, unlike a time such as 12:30:45."""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_card_number(digits: str) -> bool:
    """Return whether the last digit of a card number is the checksum of the others (Luhn 1960)."""
    numbers = [int(digit) for digit in reversed(digits)]
    if digits[0] not in "23456" or len(digits) == 13 and digits[0] != "4":
        return False  # an ISBN, or a time in milliseconds
    return sum(numbers[::2] + [sum(divmod(2 * number, 10)) for number in numbers[1::2]]) % 10 == 0


def mask_pii(text: str, counts: Counter) -> str:
    """Replace e-mail and IP addresses, card and phone numbers by their kind, and count them in `counts`."""

    def mask(kind: str, is_valid=lambda match: True):
        def replace(match: re.Match) -> str:
            if match.lastgroup == "skip" or not is_valid(match[0]):
                return match[0]
            counts[kind] += 1
            return f"[{kind}]"

        return replace

    if "@" in text:
        text = EMAIL_ADDRESS.sub(mask("email"), text)
    if any(character.isdigit() for character in text):
        text = CARD_NUMBER.sub(mask("card", lambda match: is_card_number(re.sub(r"\D", "", match))), text)
        text = IP_ADDRESS.sub(mask("ip", is_ip_address), text)
        text = PHONE_NUMBER.sub(mask("phone", lambda match: 8 <= sum(map(str.isdigit, match)) <= 15), text)
    return text


def sort_marks(match: re.Match) -> str:
    """Return combining marks in canonical order, for which normalization takes linear time instead of quadratic."""
    marks, num_starters = [], 0
    for character in "".join(unicodedata.normalize("NFD", character) for character in match[0]):
        combining_class = unicodedata.combining(character)
        num_starters += not combining_class
        marks.append((num_starters, combining_class, character))
    return "".join(character for *_, character in sorted(marks, key=lambda mark: mark[:2]))


def fix_mojibake(text: str) -> str:
    """Fix the lines that were decoded with the wrong encoding."""
    import ftfy

    return "\n".join(ftfy.fix_encoding(line) if ftfy.is_bad(line) else line for line in text.split("\n"))


def clean_text(text: str, config: Clean = DEFAULT_CLEAN, counts: Counter | None = None) -> str:
    """Normalize encoding, HTML, Unicode (NFC) and white space, keeping line ends; fixes are counted in `counts`."""
    counts = Counter() if counts is None else counts
    if config.encoding and not text.isascii():
        # NUL characters inside a word hide its encoding from ftfy.
        fixed = fix_mojibake(text.replace("\x00", ""))
        counts["encoding"] += fixed != text
        text = fixed
    if config.html:
        if "<" in text:
            stripped = HTML_TAG.sub("", LINE_BREAK_TAG.sub("\n", text))
            counts["html"] += stripped != text
            text = stripped
        if "&" in text:
            text = LONG_REFERENCE.sub(lambda match: "1114112" if match[0].strip("0") else "0", text)
            text = html.unescape(text)
    if text.isascii() and text.isprintable():  # fast path for most English: one line, with spaces only
        text = " ".join(text.split()) if "  " in text else text.strip(" ")
    else:
        text = CONTROL_CHARACTERS.sub("", text) if CONTROL_CHARACTERS.search(text) else text
        text = unicodedata.normalize("NFC", LONG_MARKS.sub(sort_marks, text))
        text = "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))
    return mask_pii(text, counts) if config.mask_pii else text
